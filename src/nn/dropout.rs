//! Dropout, in training only.

use super::Net;
use super::init::fnv1a;
use crate::graph::Var;
use crate::kernels::dropout::{self as kernel, Dropout};

/// PyTorch's `nn.Dropout` on x of any shape, with the network's share; nothing when the network is not for training. The name
/// and the scope decide, with the step's seed, which elements are dropped.
#[track_caller]
pub fn dropout(net: &mut Net, name: &str, x: Var) -> Var {
    match place(net, name) {
        Some((dropout, seed)) => kernel::dropout(net, x, seed, dropout),
        None => x,
    }
}

/// The place of that name, and the seed; `None` when nothing is dropped.
pub(super) fn place(net: &Net, name: &str) -> Option<(Dropout, Var)> {
    let training = net.training()?;
    let hash = fnv1a(&net.path(name));
    Some((Dropout { p: training.dropout, salt: (hash ^ hash >> 32) as u32 }, training.seed))
}
