//! Batches for training, made on threads while the GPU works.
//!
//! Worker `w` of `n` makes the batches `w`, `w + n`, `w + 2n`, … whole (reads, augments, pads) and puts them into a bounded
//! channel of its own; the trainer takes them in turn. So the order is fixed, memory is bounded, and the number of threads
//! changes nothing: what a batch holds follows from seed, epoch and step alone, and training resumes at any step.

use super::augment::{Annotated, Recipe, generator};
use super::dataset::ImageRecord;
use super::image;
use super::preprocess::{Batch, Resize, Sample, Size, resize};
use super::report::Strictness;
use crate::train::matcher::Targets;
use crate::{Error, Result};
use rand::RngExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Batches that one worker may be ahead of the trainer.
const AHEAD: usize = 2;

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Pictures in a batch.
    pub batch: usize,
    /// Batches that belong together: an epoch has whole groups of so many.
    pub group: usize,
    /// The sizes that batches are padded to: the smallest that holds all of its pictures is taken. A picture that none holds is
    /// made smaller. One plan is compiled for each.
    pub buckets: Vec<Size>,
    /// How pictures are varied; without one they are made as large as the first bucket allows.
    pub recipe: Option<Recipe>,
    /// Of the order and of the variation.
    pub seed: u64,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// What to do about a picture that cannot be read: leave it out, or end the run.
    pub strictness: Strictness,
}

impl LoaderOptions {
    /// Passes when batches can be made.
    ///
    /// # Errors
    /// [`Error::Config`] for the first thing that cannot be.
    pub fn check(&self) -> Result<()> {
        for (name, count) in [("batch", self.batch), ("group", self.group), ("threads", self.threads)] {
            if count == 0 {
                return Err(Error::Config(format!("`{name}` is 0; it must be at least 1")));
            }
        }
        if self.buckets.is_empty() || self.buckets.iter().any(|b| b.width == 0 || b.height == 0) {
            return Err(Error::Config("training needs at least one image size, none of them empty".into()));
        }
        self.recipe.as_ref().map_or(Ok(()), Recipe::check)
    }

    /// Steps in an epoch of a set of so many pictures: what does not fill a group of batches is left out, but one there always is.
    pub fn steps(&self, pictures: usize) -> u64 {
        ((pictures / (self.batch * self.group)).max(1) * self.group) as u64
    }
}

/// One batch with its objects.
#[derive(Clone, Debug)]
pub struct TrainBatch {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step since the start of training, from 0.
    pub step: u64,
    /// The pictures, padded to a bucket.
    pub batch: Batch,
    /// The objects of each picture.
    pub targets: Vec<Targets>,
    /// Pictures that could not be read, each with the reason; others stand in their place.
    pub skipped: Vec<String>,
}

impl TrainBatch {
    /// The bucket.
    pub fn size(&self) -> Size {
        let [_, height, width] = self.batch.pictures.dims();
        Size { width, height }
    }

    /// One of its pictures as a batch, padded as it is.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn single(&self, picture: usize) -> Self {
        let batch = Batch {
            pictures: self.batch.pictures.single(picture),
            original: vec![self.batch.original[picture]],
            resized: vec![self.batch.resized[picture]],
        };
        Self { batch, targets: vec![self.targets[picture].clone()], ..self.clone() }
    }
}

/// See the module. Endless: it goes from epoch to epoch until it is dropped.
#[derive(Debug)]
pub struct Loader {
    workers: Vec<Receiver<Result<TrainBatch>>>,
    next: u64,
    first: u64,
    waited: Duration,
}

impl Loader {
    /// Starts the workers; the first batch is that of `first_step`, counted from the start of training.
    ///
    /// # Errors
    /// As [`LoaderOptions::check`], and [`Error::Config`] without pictures.
    pub fn start(images: Arc<Vec<ImageRecord>>, options: LoaderOptions, first_step: u64) -> Result<Self> {
        options.check()?;
        if images.is_empty() {
            return Err(Error::Config("there are no pictures to train on".into()));
        }
        let threads = options.threads as u64;
        let options = Arc::new(options);
        let worker = |index: u64| {
            let (send, receive) = sync_channel(AHEAD);
            let maker = Maker { images: images.clone(), options: options.clone() };
            let work = move || {
                let mut steps = (first_step + index..).step_by(threads as usize);
                // The trainer has left when nobody receives.
                while steps.next().is_some_and(|step| send.send(maker.batch(step)).is_ok()) {}
            };
            thread::Builder::new().name(format!("loader {index}")).spawn(work).map_err(Error::io("a loader thread"))?;
            Ok(receive)
        };
        let workers = (0..threads).map(worker).collect::<Result<_>>()?;
        Ok(Self { workers, next: first_step, first: first_step, waited: Duration::ZERO })
    }

    /// The next batch.
    ///
    /// # Errors
    /// As reading pictures, under [`Strictness::Fatal`]; or when none of the pictures can be read.
    pub fn next_batch(&mut self) -> Result<TrainBatch> {
        let start = Instant::now();
        let worker = (self.next - self.first) as usize % self.workers.len();
        let batch = self.workers[worker].recv();
        self.waited += start.elapsed();
        self.next += 1;
        batch.unwrap_or_else(|_| Err(Error::Config("a loader thread has ended: this is a bug".into())))
    }

    /// How long [`Loader::next_batch`] has waited in all: time that the GPU had nothing to do.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// Makes any batch, in any order.
struct Maker {
    images: Arc<Vec<ImageRecord>>,
    options: Arc<LoaderOptions>,
}

impl Maker {
    fn batch(&self, step: u64) -> Result<TrainBatch> {
        let (options, count) = (&self.options, self.images.len());
        let steps = options.steps(count);
        let (epoch, in_epoch) = (step / steps, (step % steps) as usize);
        let order = order(count, options.seed, epoch);
        let mut skipped = Vec::new();
        let mut samples = Vec::with_capacity(options.batch);
        let mut targets = Vec::with_capacity(options.batch);
        for i in 0..options.batch {
            let picture = self.picture(&order, in_epoch * options.batch + i, epoch, &mut skipped)?;
            targets.push(Targets { labels: picture.labels.clone(), boxes: picture.normalized_boxes() });
            samples.push(Sample { original: Size::of(&picture.image), image: picture.image });
        }
        let bucket = bucket(&options.buckets, &samples);
        for sample in &mut samples {
            let fitting = within(Size::of(&sample.image), bucket);
            if fitting != Size::of(&sample.image) {
                sample.image = resize(&sample.image, fitting);
            }
        }
        let batch = Batch::new(&samples, Some(bucket))?;
        Ok(TrainBatch { epoch, step, batch, targets, skipped })
    }

    /// The picture at a place of the order, varied; the next one that can be read when it cannot.
    fn picture(&self, order: &[usize], place: usize, epoch: u64, skipped: &mut Vec<String>) -> Result<Annotated> {
        let mut last = None;
        for i in 0..order.len() {
            let index = order[(place + i) % order.len()];
            let record = &self.images[index];
            match image::read(&record.path).and_then(|image| Annotated::new(image, record)) {
                // The place is part of the seed: a picture that comes twice in a batch comes in two variations.
                Ok(picture) => return Ok(self.vary(picture, epoch, ((place as u64) << 32) | index as u64)),
                Err(error) if self.options.strictness == Strictness::Fatal => return Err(error),
                Err(error) => {
                    skipped.push(error.to_string());
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Config("there are no pictures to train on".into())))
    }

    fn vary(&self, mut picture: Annotated, epoch: u64, image: u64) -> Annotated {
        if let Some(recipe) = &self.options.recipe {
            return recipe.apply(picture, &mut generator(self.options.seed, epoch, image));
        }
        let from = Size::of(&picture.image);
        let bucket = self.options.buckets[0];
        let (shorter, longer) = (bucket.width.min(bucket.height), bucket.width.max(bucket.height));
        let to = within(Resize { shorter, longer }.size(from), bucket);
        let (x, y) = (to.width as f32 / from.width as f32, to.height as f32 / from.height as f32);
        picture.image = resize(&picture.image, to);
        picture.boxes.iter_mut().for_each(|b| *b = [b[0] * x, b[1] * y, b[2] * x, b[3] * y]);
        picture
    }
}

/// The order of the pictures in an epoch.
fn order(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = generator(seed, epoch, u64::MAX);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, rng.random_range(0..=i as u64) as usize);
    }
    order
}

/// The smallest bucket that holds all samples, else the largest.
fn bucket(buckets: &[Size], samples: &[Sample]) -> Size {
    let largest = || buckets.iter().copied().max_by_key(|b| b.width * b.height);
    bucket_of(buckets, samples).or_else(largest).expect("at least one bucket")
}

/// The smallest bucket that holds all samples, if one does.
pub(crate) fn bucket_of(buckets: &[Size], samples: &[Sample]) -> Option<Size> {
    let holds = |b: &Size| samples.iter().all(|s| s.image.width() as usize <= b.width && s.image.height() as usize <= b.height);
    buckets.iter().copied().filter(holds).min_by_key(|b| b.width * b.height)
}

/// A size of the same shape that fits into a bucket; the size itself when it does.
fn within(size: Size, bucket: Size) -> Size {
    if size.width <= bucket.width && size.height <= bucket.height {
        return size;
    }
    let scale = (bucket.width as f64 / size.width as f64).min(bucket.height as f64 / size.height as f64);
    let side = |length: usize, most: usize| ((length as f64 * scale) as usize).clamp(1, most);
    Size { width: side(size.width, bucket.width), height: side(size.height, bucket.height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::augment::SmallRecipe;
    use crate::data::dataset::Object;
    use std::path::Path;

    fn images(folder: &Path, count: u32) -> Arc<Vec<ImageRecord>> {
        let record = |i: u32| {
            let path = folder.join(format!("{i}.png"));
            let (width, height) = (40 + i, 30);
            image::RgbImage::from_pixel(width, height, ::image::Rgb([i as u8 * 20, 7, 90])).save(&path).expect("a writable folder");
            let object = Object {
                bbox: [4.0, 6.0, 20.0, 24.0],
                label: i as usize % 3,
                id: 1,
                original: [4.0, 6.0, 16.0, 18.0],
                area: 288.0,
                crowd: false,
                difficult: false,
            };
            ImageRecord { id: i.into(), path, width, height, objects: vec![object] }
        };
        Arc::new((0..count).map(record).collect())
    }

    fn options(threads: usize) -> LoaderOptions {
        let recipe = SmallRecipe { shorter: 24, longer: 36, ..SmallRecipe::default() };
        LoaderOptions {
            batch: 2,
            group: 1,
            buckets: vec![Size { width: 36, height: 24 }],
            recipe: Some(Recipe::Small(recipe)),
            seed: 5,
            threads,
            strictness: Strictness::Skip,
        }
    }

    fn take(images: &Arc<Vec<ImageRecord>>, options: LoaderOptions, first: u64, count: usize) -> Vec<TrainBatch> {
        let mut loader = Loader::start(images.clone(), options, first).expect("good options");
        (0..count).map(|_| loader.next_batch().expect("a batch")).collect()
    }

    fn same(a: &TrainBatch, b: &TrainBatch) -> bool {
        (a.epoch, a.step, &a.targets) == (b.epoch, b.step, &b.targets) && a.batch.pictures == b.batch.pictures
    }

    #[test]
    fn neither_threads_nor_a_later_start_change_a_batch() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 5);
        let (one, three) = (take(&images, options(1), 0, 7), take(&images, options(3), 0, 7));
        assert!(one.iter().zip(&three).all(|(a, b)| same(a, b)));
        assert!(one[3..].iter().zip(&take(&images, options(2), 3, 4)).all(|(a, b)| same(a, b)));
        assert_eq!(one.iter().map(|b| b.epoch).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3]);
        assert!(!same(&one[0], &TrainBatch { epoch: 0, step: 0, ..one[2].clone() }), "epochs differ");
    }

    #[test]
    fn an_epoch_has_whole_groups_of_batches() {
        let steps = |group, pictures| LoaderOptions { group, ..options(1) }.steps(pictures);
        assert_eq!((steps(1, 13), steps(3, 13), steps(3, 11), steps(3, 1)), (6, 6, 3, 3));
        let folder = tempfile::tempdir().unwrap();
        let batches = take(&images(folder.path(), 3), LoaderOptions { group: 2, ..options(2) }, 0, 3);
        assert_eq!(batches.iter().map(|b| b.epoch).collect::<Vec<_>>(), [0, 0, 1], "three pictures fill one group of two pairs");
    }

    #[test]
    fn an_epoch_shows_every_picture_at_most_once() {
        let order = order(100, 3, 1);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, sorted);
    }

    #[test]
    fn a_picture_that_cannot_be_read_is_replaced_or_fatal() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 4);
        std::fs::write(&images[1].path, b"no picture").unwrap();
        let batches = take(&images, options(2), 0, 2);
        let skipped: Vec<&String> = batches.iter().flat_map(|b| &b.skipped).collect();
        assert!(skipped.len() == 1 && skipped[0].contains("1.png"), "{skipped:?}");
        let strict = LoaderOptions { strictness: Strictness::Fatal, ..options(2) };
        let mut loader = Loader::start(images.clone(), strict, 0).unwrap();
        assert!((0..2).any(|_| loader.next_batch().is_err()));
        images.iter().for_each(|i| std::fs::write(&i.path, b"no picture").unwrap());
        assert!(Loader::start(images, options(1), 0).unwrap().next_batch().is_err());
    }

    #[test]
    fn pictures_fit_their_bucket_and_boxes_follow() {
        let folder = tempfile::tempdir().unwrap();
        let plain = LoaderOptions { recipe: None, buckets: vec![Size { width: 20, height: 20 }], ..options(1) };
        let batch = &take(&images(folder.path(), 1), plain, 0, 1)[0];
        assert_eq!((batch.size(), batch.batch.resized[0]), (Size { width: 20, height: 20 }, Size { width: 20, height: 15 }));
        let [x, y, w, h] = batch.targets[0].boxes[0];
        for (found, expected) in [x, y, w, h].into_iter().zip([0.3, 0.5, 0.4, 0.6]) {
            assert!((found - expected).abs() < 1e-6);
        }
        assert_eq!(batch.batch.original.len(), 2, "one picture fills the batch by coming twice");
    }

    #[test]
    fn the_smallest_bucket_that_holds_all_is_taken() {
        let buckets = [(40, 40), (40, 20), (20, 40)].map(|(width, height)| Size { width, height });
        let sample = |w, h| Sample { image: image::RgbImage::new(w, h), original: Size { width: 1, height: 1 } };
        let of = |samples: &[Sample]| bucket(&buckets, samples);
        assert_eq!(of(&[sample(40, 10), sample(3, 20)]), buckets[1]);
        assert_eq!(of(&[sample(40, 10), sample(3, 30)]), buckets[0]);
        assert_eq!(of(&[sample(90, 10)]), buckets[0]);
        assert_eq!(within(Size { width: 90, height: 10 }, buckets[0]), Size { width: 40, height: 4 });
    }
}
