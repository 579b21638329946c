//! Layers: each registers its parameters under PyTorch's names and adds its nodes.
//!
//! ```
//! use qdetr::nn::{Linear, Net, Precision};
//! use qdetr::tensor::TensorType;
//!
//! let mut net = Net::new(Precision::F32);
//! let x = net.input("x", TensorType::f32([2, 10, 64]));
//! let y = net.scoped("encoder", |net| Linear::new(32).forward(net, "linear1", x));
//! assert_eq!(net.shape(y).dims(), [2, 10, 32]);
//! assert!(net.specs().contains_key("encoder.linear1.weight"));
//! ```

mod attention;
mod conv;
mod dropout;
mod init;
mod linear;
mod net;
mod norm;
pub mod quantized;

pub use attention::{MultiheadAttention, Prior};
pub use conv::{Conv, conv_norm};
pub use dropout::dropout;
pub use init::{Init, initialize};
pub use linear::{Linear, mlp};
pub use net::{Net, ParamSpec, Precision, Training};
pub use norm::{frozen_batch_norm, layer_norm};
