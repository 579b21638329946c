//! The op table: one Rust file for each family of WGSL files, with shapes, twin, kernels, gradient and test cases side by side.
//!
//! To add an op: the WGSL in `shaders/`, the Rust file here, one line in [`TABLE`]. Tests, `qdetr check`, benches and the
//! shader audit enumerate the table.

pub mod attention;
pub mod binary;
pub mod coded;
pub mod concat;
pub mod conv;
pub mod conv_gradient;
pub mod depthwise;
pub mod depthwise_backward;
pub mod dropout;
pub mod epilogue;
mod gemm;
pub mod head_codes;
mod head_matrix;
mod head_packed;
mod head_product;
pub mod heads;
pub mod integer;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod matmul;
pub mod optim;
pub mod pool;
pub mod position;
pub mod prior;
pub mod probe;
pub mod quantize;
pub mod reduce;
mod rows;
pub mod scale_shift;
pub mod softmax;
pub mod unary;

pub use gemm::Layout;

use crate::gpu::{Gpu, Tier};
use crate::graph::check::{Family, check_case};
use crate::{Error, Result};

/// Every family.
pub const TABLE: &[Family] = &[
    Family { name: "attention", cases: attention::cases },
    Family { name: "binary", cases: binary::cases },
    Family { name: "coded", cases: coded::cases },
    Family { name: "concat", cases: concat::cases },
    Family { name: "conv", cases: conv::cases },
    Family { name: "conv_gradient", cases: conv_gradient::cases },
    Family { name: "depthwise", cases: depthwise::cases },
    Family { name: "dropout", cases: dropout::cases },
    Family { name: "head_codes", cases: head_codes::cases },
    Family { name: "heads", cases: heads::cases },
    Family { name: "integer", cases: integer::cases },
    Family { name: "layer_norm", cases: layer_norm::cases },
    Family { name: "linear", cases: linear::cases },
    Family { name: "loss", cases: loss::cases },
    Family { name: "matmul", cases: matmul::cases },
    Family { name: "optim", cases: optim::cases },
    Family { name: "pool", cases: pool::cases },
    Family { name: "position", cases: position::cases },
    Family { name: "prior", cases: prior::cases },
    Family { name: "quantize", cases: quantize::cases },
    Family { name: "probe", cases: probe::cases },
    Family { name: "reduce", cases: reduce::cases },
    Family { name: "scale_shift", cases: scale_shift::cases },
    Family { name: "softmax", cases: softmax::cases },
    Family { name: "unary", cases: unary::cases },
];

/// Whether the kernels that need extensions compute correctly on this device: a tiny case through each of them. Drivers have
/// listed cooperative matrices that they then computed wrongly. `None` when all is well, otherwise what is wrong.
///
/// # Errors
/// A failure of the device other than a refused shader.
pub fn prove(gpu: &Gpu) -> Result<Option<String>> {
    if !gpu.capabilities().allows(Tier::Matrix) {
        return Ok(None);
    }
    for case in [linear::matrix_case(), integer::matrix_case(), heads::matrix_case()] {
        let outcomes = match check_case(gpu, &case) {
            Ok(outcomes) => outcomes,
            Err(Error::Driver(what)) => return Ok(Some(what)),
            Err(error) => return Err(error),
        };
        if let Some(wrong) = outcomes.into_iter().find_map(|o| o.result.err().map(|what| format!("{}: {what}", o.kernel))) {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}
