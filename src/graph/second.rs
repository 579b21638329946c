//! A rewrite for networks whose skip connections are codes: a product that gives such codes also makes those of the quantizer that reads
//! what they stand for, where both exist side by side without more memory than the graph takes anyway. The codes are the same, bit by bit.
//!
//! Both lie in one tensor and so live as long as the one that is needed longer. What is needed is one pass less over memory; what it costs
//! is memory where the first layers of a network have most of it, so there it stays as it is.

use super::memory::{Life, lives};
use super::rebuild::Rebuild;
use super::{Graph, Node, Origin, PART_BYTES, Var};
use crate::kernels::concat::concat;
use crate::kernels::integer::{self, Arithmetic, Requantize};
use crate::kernels::quantize::Recode;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

/// A product and the node that makes other codes of its codes.
struct Found {
    product: usize,
    recode: usize,
    op: Arc<dyn super::Op>,
}

/// The same graph with fewer nodes. `is_constant` says which states the host can put together.
pub(super) fn second(graph: &Graph, is_constant: &dyn Fn(Var) -> bool) -> Graph {
    let found: HashMap<usize, Found> = find(graph, is_constant).into_iter().map(|found| (found.product, found)).collect();
    let mut rebuild = Rebuild::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if let Some(found) = found.get(&index) {
            found.add(&mut rebuild);
        } else if !found.values().any(|found| found.recode == index) {
            rebuild.copy(node);
        }
    }
    rebuild.finish()
}

impl Found {
    fn add(&self, rebuild: &mut Rebuild<'_>) {
        let [product, recode] = [self.product, self.recode].map(|i| &rebuild.from.nodes()[i]);
        rebuild.to.segment = product.segment;
        let mut inputs = rebuild.inputs(product);
        let states = [inputs.pop().expect("a state"), rebuild.var(recode.inputs[2])];
        inputs.push(concat(&mut rebuild.to, &states));
        let codes = rebuild.add(&product.scope, self.op.clone(), &inputs)[0];
        for (i, old) in [product.outputs[0], recode.outputs[0]].into_iter().enumerate() {
            let shape = rebuild.from.shape(old);
            let part = rebuild.to.part(codes, i * shape.len(), shape.dims());
            rebuild.stand_for(old, part);
        }
    }
}

fn find(graph: &Graph, is_constant: &dyn Fn(Var) -> bool) -> Vec<Found> {
    let lives = lives(graph);
    let mut live = live(graph, &lives);
    let most = live.iter().copied().max().unwrap_or(0);
    // Buffers are as large as the largest value in them.
    let largest = lives.keys().map(|&var| graph.ty(var).bytes()).max().unwrap_or(0);
    let mut found: Vec<Found> = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let Some((product, op)) = product_of(graph, node).filter(|_| is_constant(node.inputs[2])) else { continue };
        let [first, other] = [graph.nodes()[product].outputs[0], node.outputs[0]].map(|var| lives.get(&var).copied());
        let Some((first, other)) = first.zip(other).filter(|_| found.iter().all(|found| found.product != product)) else { continue };
        // From the product on, and as long as the codes that live longer.
        let bytes = graph.ty(node.outputs[0]).bytes();
        let longer: Vec<usize> = (product..=first.to.max(other.to)).filter(|i| !(other.from..=other.to).contains(i)).collect();
        if 2 * bytes <= largest && longer.iter().all(|&i| live[i] + bytes <= most) {
            longer.into_iter().for_each(|i| live[i] += bytes);
            found.push(Found { product, recode: index, op });
        }
    }
    found
}

/// Bytes alive at each node.
fn live(graph: &Graph, lives: &HashMap<Var, Life>) -> Vec<usize> {
    let mut live = vec![0; graph.nodes().len()];
    for (&var, life) in lives {
        live[life.from..=life.to].iter_mut().for_each(|bytes| *bytes += graph.ty(var).bytes());
    }
    live
}

/// The product whose codes a node makes others of, and the product that makes both.
fn product_of(graph: &Graph, node: &Node) -> Option<(usize, Arc<dyn super::Op>)> {
    let recode: &Recode = (&*node.op as &dyn Any).downcast_ref().filter(|recode: &&Recode| recode.step == 1)?;
    let Origin::Node { node: product, .. } = graph.values()[graph.root(node.inputs[0]).0].origin else { return None };
    let before = &graph.nodes()[product];
    let arithmetic = integer::arithmetic_of(&*before.op)?;
    let requantize = arithmetic.requantize.filter(|r| r.again.is_none() && (r.quantizers, r.groups, r.keep) == (1, 1, false))?;
    let codes = graph.ty(before.outputs[0]);
    let exists = match graph.values()[graph.root(node.inputs[2]).0].origin {
        Origin::Node { node: of_state, .. } => of_state < product,
        _ => true,
    };
    let suits = exists && recode.through == arithmetic.to && codes.bytes().is_multiple_of(PART_BYTES) && before.segment == node.segment;
    let requantize = Some(Requantize { again: Some(recode.levels), ..requantize });
    let op = suits.then(|| integer::with_arithmetic(&*before.op, Arithmetic { requantize, ..arithmetic }))??;
    Some((product, op))
}
