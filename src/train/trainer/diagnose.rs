//! Where numbers stop being finite: a batch once more, with every value kept.

use super::{LOSS_SCALE, Program, Trainer, size_of};
use crate::data::TrainBatch;
use crate::graph::check::first_not_finite;
use crate::graph::{Plan, PlanOptions, Scratch};
use crate::tensor::Host;
use crate::{Error, Result};

impl Trainer {
    /// Runs a batch once more and names the first node that gives a number that is not finite; `None` when all are this time.
    /// Every value is kept for that: where this takes too much memory, the pictures of the batch run one by one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when not even one picture fits in this way; failures of the device.
    pub fn first_not_finite(&mut self, batch: &TrainBatch, seed: u32, loss_scale: f32) -> Result<Option<String>> {
        match self.look(batch, seed, loss_scale) {
            Err(Error::OutOfMemory(_)) if batch.targets.len() > 1 => {}
            found => return found,
        }
        for image in 0..batch.targets.len() {
            if let Some(found) = self.look(&batch.single(image), seed, loss_scale)? {
                return Ok(Some(format!("on picture {image} of the batch alone, {found}")));
            }
        }
        Ok(None)
    }

    fn look(&mut self, batch: &TrainBatch, seed: u32, loss_scale: f32) -> Result<Option<String>> {
        self.forget_plans()?;
        let (graph, shape) = self.graph(size_of(batch))?;
        let options = PlanOptions { keep_all: true, ..PlanOptions::default() };
        let links = self.weights.links("");
        let plan = Plan::compile_linked(&self.gpu, &graph, &self.constants, &links, &mut Scratch::default(), options)?;
        let program = Program { plan, shape, arenas: None };
        program.write_batch(batch, seed);
        program.plan.run_segment(0)?;
        if let Some(found) = first_not_finite(&program.plan, 0)? {
            return Ok(Some(found));
        }
        program.write_targets(&self.judge(), &program.plan.read_segment(0)?, &batch.targets)?;
        program.plan.write(LOSS_SCALE, &Host::f32([1], vec![loss_scale]));
        program.plan.run_segment(1)?;
        first_not_finite(&program.plan, 1)
    }
}
