//! Whether a run fits the device: worked out before anything is allocated, and said with the batch that would.
//!
//! How large one buffer may be is known at once. How much memory there is, WebGPU does not tell: what does not fit is learnt from
//! the device's refusal, and then smaller batches are tried in turn, by allocating what they need and giving it back.

use super::{TrainConfig, Trainer};
use crate::data::Entry;
use crate::data::preprocess::Size;
use crate::gpu::Gpu;
use crate::graph::{Needs, fold, fuse};
use crate::models::{BatchSize, Results, detr};
use crate::nn::Precision;
use crate::{Error, Result};
use wgpu::BufferUsages;

/// Compiles the plans of all sizes, the largest first, and returns the bytes that an evaluation takes beside them.
///
/// # Errors
/// [`Error::OutOfMemory`] with the batch that would fit; failures of the device.
pub fn prepare(trainer: &mut Trainer, config: &TrainConfig) -> Result<usize> {
    let (most, batch) = (largest_buffer(trainer.gpu()), config.batch);
    let room = Room::of(trainer, config, batch);
    if room.largest() > most {
        let why = format!("a tensor of it takes {}, and one buffer of this device holds {}", mb(room.largest()), mb(most));
        let fits = largest_below(batch, |batch| Room::of(trainer, config, batch).largest() <= most);
        return Err(refuse(config, &room, &why, fits));
    }
    let Err(error) = allocate(trainer, config, &room) else { return Ok(room.evaluation.total()) };
    let Error::OutOfMemory(why) = error else { return Err(error) };
    trainer.forget_plans()?;
    let fits = largest_below(batch, |batch| {
        let room = Room::of(trainer, config, batch);
        // Kernel parameters and the driver's own books are not in these.
        let slack = Needs { params: room.training.total() / 50, ..Needs::default() };
        room.largest() <= most && probe(trainer.gpu(), &[&room.training, &room.evaluation, &slack]).is_ok()
    });
    Err(refuse(config, &room, &why, fits))
}

/// Compiles everything, and makes sure that an evaluation has room beside it.
fn allocate(trainer: &mut Trainer, config: &TrainConfig, room: &Room) -> Result<()> {
    for size in sizes(config) {
        trainer.prepare(batch_of(size, config.batch))?;
    }
    probe(trainer.gpu(), &[&room.evaluation])
}

/// Allocates what is needed, and gives it back.
fn probe(gpu: &Gpu, needs: &[&Needs]) -> Result<()> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let buffers: Result<Vec<_>> = needs.iter().flat_map(|needs| needs.buffers()).map(|bytes| gpu.buffer("probe", bytes, usage)).collect();
    let fits = buffers.map(drop);
    gpu.wait()?;
    fits
}

/// What a run allocates beside weights, gradients and moments.
struct Room {
    training: Needs,
    evaluation: Needs,
}

impl Room {
    fn of(trainer: &Trainer, config: &TrainConfig, batch: usize) -> Self {
        let sizes = sizes(config);
        let each = sizes.iter().map(|&size| trainer.needs(batch_of(size, batch)));
        let training = each.reduce(Needs::beside).expect("a configuration has a size");
        let model = detr(&config.model, (batch_of(sizes[0], batch), Entry::Bytes), Precision::F32, Results::Answers).into_parts().0;
        let fused = fuse(&model, &|_| false);
        let evaluation = Needs::of(&fold(&fused, &|_| false).graph, &|_| false);
        Self { training, evaluation }
    }

    fn largest(&self) -> usize {
        self.training.buffers().chain(self.evaluation.buffers()).max().unwrap_or(0)
    }
}

/// The sizes of a run, the largest first.
fn sizes(config: &TrainConfig) -> Vec<Size> {
    let mut sizes = config.buckets();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.width * size.height));
    sizes
}

fn batch_of(size: Size, images: usize) -> BatchSize {
    BatchSize { images, height: size.height, width: size.width }
}

fn largest_buffer(gpu: &Gpu) -> usize {
    gpu.limits().max_storage_buffer_binding_size.min(gpu.limits().max_buffer_size) as usize
}

/// The largest number below `too_many` for which `fits` holds; it holds for all smaller ones then.
fn largest_below(too_many: usize, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
    let (mut good, mut bad) = (0, too_many);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}

fn refuse(config: &TrainConfig, room: &Room, why: &str, fits: Option<usize>) -> Error {
    let (batch, largest) = (config.batch, sizes(config)[0]);
    let needed = mb(room.training.total() + room.evaluation.total());
    let advice = match fits {
        Some(fits) => {
            let groups = (batch * config.accumulate).div_ceil(fits);
            format!("a batch of {fits} fits: --batch {fits}, and --accumulate {groups} for as many pictures a step")
        }
        None => "not even one picture would fit: make it smaller, with --size".into(),
    };
    let asked = batch_of(largest, batch);
    Error::OutOfMemory(format!("a batch of {asked} (images × height × width) needs {needed} beside the model; {why}; {advice}"))
}

fn mb(bytes: usize) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_that_fits_is_found() {
        for most in 0..10 {
            assert_eq!(largest_below(10, |n| n <= most), (most > 0).then_some(most));
        }
        assert_eq!(largest_below(1, |_| true), None);
    }
}
