//! One update from several batches: their gradients and losses are added up on the device, and the update takes the mean.
//!
//! Every batch is normalized by its own objects, as it is on each of several GPUs. So the mean is the gradient of one large batch
//! where all batches have as many objects, and one in which scarce objects count more elsewhere.

use crate::Result;
use crate::gpu::Gpu;
use crate::graph::{Arena, Graph, Links, Params, Plan, PlanOptions, Scratch, Values};
use crate::kernels::optim::accumulate;
use crate::tensor::{DType, Host, TensorType};

/// The sums over a group of batches.
#[derive(Debug)]
pub(super) struct Accumulator {
    plan: Plan,
    gradients: Arena,
    losses: Arena,
}

impl Accumulator {
    /// Sums of what lies in an arena of gradients behind each batch. The losses are added up in the given arena, and
    /// [`Accumulator::links`] says where those of a batch belong.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], and failures of the device.
    pub(super) fn new(gpu: &Gpu, of_batch: &Arena, losses: &Arena) -> Result<Self> {
        let sums = Arena::new(gpu, "sums of gradients", of_batch.layout())?;
        let own_losses = Arena::new(gpu, "losses of a batch", losses.layout())?;
        let mut g = Graph::new();
        let keep = g.input("keep", TensorType::new([1], DType::U32));
        let mut links = Links::new();
        for (name, sum, x) in [("gradients", &sums, of_batch), ("losses", losses, &own_losses)] {
            let ty = TensorType::f32([x.layout().bytes() / 4]);
            let [to, from] = [(format!("{name}.sum"), sum), (name.to_owned(), x)].map(|(name, arena)| {
                let var = g.input(&name, ty);
                links.insert(name, arena.whole());
                var
            });
            accumulate(&mut g, to, from, keep);
        }
        let params = Params::upload(gpu, &Values::new())?;
        let plan = Plan::compile_linked(gpu, &g, &params, &links, &mut Scratch::default(), PlanOptions::default())?;
        Ok(Self { plan, gradients: sums, losses: own_losses })
    }

    /// Where the sums of the gradients lie.
    pub(super) fn gradients(&self) -> &Arena {
        &self.gradients
    }

    /// Where other plans shall write the losses of a batch.
    pub(super) fn links(&self) -> Links {
        self.losses.links("")
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.gradients.layout().bytes() + self.losses.layout().bytes() + self.plan.memory().total()
    }

    /// Submits the addition of one batch's gradients and losses, which begins the sums anew when it is the first.
    ///
    /// # Errors
    /// A failure of the device.
    pub(super) fn add(&self, is_first: bool) -> Result<()> {
        self.plan.write("keep", &Host::u32([1], vec![u32::from(!is_first)]));
        self.plan.run()
    }
}
