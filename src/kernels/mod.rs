//! The op table: one Rust file for each family of WGSL files, with shapes, twin, kernels, gradient and test cases side by side.
//!
//! To add an op: the WGSL in `shaders/`, the Rust file here, one line in [`TABLE`]. Tests, `qdetr check`, benches and the
//! shader audit enumerate the table.

pub mod conv;
pub mod epilogue;
mod gemm;
pub mod linear;
pub mod unary;

use crate::graph::check::Family;

/// Every family.
pub const TABLE: &[Family] = &[
    Family { name: "conv", cases: conv::cases },
    Family { name: "linear", cases: linear::cases },
    Family { name: "unary", cases: unary::cases },
];
