//! From files to tensors: data sets, pictures and the names of their classes.

pub mod augment;
pub mod categories;
pub mod coco;
pub mod dataset;
pub mod image;
mod jpeg;
pub mod labels;
mod layout;
pub mod loader;
pub mod pictures;
pub mod preprocess;
pub mod report;
mod resample;
pub mod voc;

pub use categories::Categories;
pub use dataset::{Dataset, ImageRecord, Object, Options};
pub use loader::{Loader, LoaderOptions, TrainBatch};
pub use pictures::{Entry, Pictures};
pub use report::{Issue, Kind, Report, Strictness};
