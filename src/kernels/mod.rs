//! The op table: one Rust file for each family of WGSL files, with shapes, twin, kernels, gradient and test cases side by side.
//!
//! To add an op: the WGSL in `shaders/`, the Rust file here, one line in [`TABLE`]. Tests, `qdetr check`, benches and the
//! shader audit enumerate the table.

pub mod arena_sums;
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
pub mod head_values;
pub mod heads;
pub mod integer;
pub mod integer_attention;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod matmul;
pub mod normalize;
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

use crate::gpu::shader::fingerprint;
use crate::gpu::{Dispatch, Gpu, Tier};
use crate::graph::check::{Case, Family, check_kernels};
use crate::tensor::{Host, TensorType};
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
    Family { name: "head_values", cases: head_values::cases },
    Family { name: "heads", cases: heads::cases },
    Family { name: "integer", cases: integer::cases },
    Family { name: "integer_attention", cases: integer_attention::cases },
    Family { name: "layer_norm", cases: layer_norm::cases },
    Family { name: "linear", cases: linear::cases },
    Family { name: "loss", cases: loss::cases },
    Family { name: "matmul", cases: matmul::cases },
    Family { name: "normalize", cases: normalize::cases },
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
/// listed cooperative matrices that they then computed wrongly. `None` when all is well, otherwise what is wrong. A proof holds for the
/// adapter, its driver and the text of the kernels, and is kept beside the pipeline cache.
///
/// # Errors
/// A failure of the device other than a refused shader.
pub fn prove(gpu: &Gpu) -> Result<Option<String>> {
    if !gpu.capabilities().allows(Tier::Matrix) {
        return Ok(None);
    }
    let cases = [
        linear::matrix_case(),
        integer::matrix_case(),
        integer::normed_matrix_case(),
        heads::matrix_case(),
        integer_attention::matrix_case(),
    ];
    let needs_proof = |kernel: &Dispatch| kernel.tier == Tier::Matrix;
    let proof = subject_of_proof(gpu, &cases, &needs_proof);
    if gpu.disk().is_proved(&proof) {
        return Ok(None);
    }
    for case in cases {
        let outcomes = match check_kernels(gpu, &case, &needs_proof) {
            Ok(outcomes) => outcomes,
            Err(Error::Driver(what)) => return Ok(Some(what)),
            Err(error) => return Err(error),
        };
        if let Some(wrong) = outcomes.into_iter().find_map(|o| o.result.err().map(|what| format!("{}: {what}", o.kernel))) {
            return Ok(Some(wrong));
        }
    }
    gpu.disk().keep_proof(&proof);
    Ok(None)
}

/// What a proof is of: this driver, and the texts of the wanted kernels of some cases.
fn subject_of_proof(gpu: &Gpu, cases: &[Case], wanted: &dyn Fn(&Dispatch) -> bool) -> String {
    let kernels = |case: &Case| {
        let types: Vec<TensorType> = case.inputs.iter().map(Host::ty).collect();
        case.op.kernels(&types, &case.op.outputs(&types), gpu.capabilities())
    };
    let kernels: Vec<Dispatch> = cases.iter().flat_map(kernels).filter(wanted).collect();
    let info = gpu.info();
    format!("{}, {} {}, kernels {}", info.name, info.driver, info.driver_info, fingerprint(&kernels))
}
