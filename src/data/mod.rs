//! From files to tensors: data sets, pictures and the names of their classes.

pub mod categories;
pub mod coco;
pub mod dataset;
mod layout;
pub mod report;
pub mod voc;

pub use categories::Categories;
pub use dataset::{Dataset, ImageRecord, Object, Options};
pub use report::{Issue, Kind, Report, Strictness};
