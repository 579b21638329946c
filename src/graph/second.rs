//! A rewrite for networks whose skip connections are codes: a product that gives such codes also makes those of the quantizer that reads
//! what they stand for, where both exist side by side without more memory than the graph takes anyway. The codes are the same, bit by bit.
//!
//! Both lie in one tensor and so live as long as the one that is needed longer. What is needed is one pass less over memory; what it costs
//! is memory where the first layers of a network have most of it, so there it stays as it is.

use super::memory::{lives, living};
use super::rebuild::{Rebuild, exists_before, is, maker};
use super::{Graph, Node, Op, PART_BYTES, Var};
use crate::kernels::concat::concat;
use crate::kernels::integer::{self, Arithmetic, Requantize};
use crate::kernels::quantize::Recode;
use std::collections::HashMap;
use std::sync::Arc;

/// A product and the node that makes other codes of its codes.
struct Found {
    product: usize,
    recode: usize,
    op: Arc<dyn Op>,
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
    let values = lives.iter().map(|(&var, &life)| (life, graph.ty(var).bytes()));
    let mut live = living(values, graph.nodes().len());
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

/// The product whose codes a node makes others of, and the product that makes both.
fn product_of(graph: &Graph, node: &Node) -> Option<(usize, Arc<dyn Op>)> {
    let recode = is::<Recode>(node).filter(|recode| recode.step == 1)?;
    let product = maker(graph, node.inputs[0])?;
    let before = &graph.nodes()[product];
    let arithmetic = integer::arithmetic_of(&*before.op)?;
    let requantize = arithmetic.requantize.filter(|r| r.again.is_none() && (r.quantizers, r.groups, r.keep) == (1, 1, false))?;
    let codes = graph.ty(before.outputs[0]);
    let suits = exists_before(graph, product, node.inputs[2])
        && recode.through == arithmetic.to
        && codes.bytes().is_multiple_of(PART_BYTES)
        && before.segment == node.segment;
    let requantize = Some(Requantize { again: Some(recode.levels), ..requantize });
    let op = suits.then(|| integer::with_arithmetic(&*before.op, Arithmetic { requantize, ..arithmetic }))??;
    Some((product, op))
}
