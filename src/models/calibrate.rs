//! From a network of floats to one on codes: step sizes and zero points that start from what the float network computes on some
//! pictures.
//!
//! The network of floats runs with every tensor that a quantizer would see as an output ([`observing`]), an [`Observer`] for each
//! collects them, and weights are taken as they are. Nothing is random and batches come in the caller's order: the same pictures give
//! the same step sizes, to the bit.

use super::{BatchSize, ModelConfig, Session, limits, observing};
use crate::data::Entry;
use crate::data::preprocess::Batch;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::nn::Precision;
use crate::nn::quantized::{ALPHA, OBSERVED, Place, ZERO_POINT, rows};
use crate::quant::{Method, Observer, Quantization, Quantizer, Steps};
use crate::tensor::Host;
use crate::{Error, Result};
use rayon::prelude::*;

/// How the step sizes of each kind of tensor start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationMethod {
    /// Weights.
    pub weights: Method,
    /// What layers multiply with their weights, and queries, keys and values.
    pub activations: Method,
    /// Attention maps.
    pub map: Method,
}

impl CalibrationMethod {
    /// The least squares of errors, for a network that is used as it is.
    pub const MSE: Self = Self::all(Method::Mse);

    /// LSQ's rule, from which the released code of Q-DETR trains. Maps start from the least error also here: their mean is one over
    /// the number of keys whatever they attend to, and LSQ's rule would clip all that is peaked.
    pub const LSQ: Self = Self { map: Method::Mse, ..Self::all(Method::Lsq) };

    /// One method for activations, maps included; weights, which are known whole, start from the least error.
    pub const fn activations(method: Method) -> Self {
        Self { weights: Method::Mse, ..Self::all(method) }
    }

    const fn all(method: Method) -> Self {
        Self { weights: method, activations: method, map: method }
    }

    fn of(self, place: &Place) -> Method {
        match place.name.rsplit('.').next() {
            _ if place.weight.is_some() => self.weights,
            Some("map_act") => self.map,
            _ => self.activations,
        }
    }
}

/// A model on codes, ready to run or to be trained.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The configuration, its quantization now with the signs that the data decided.
    pub config: ModelConfig,
    /// The parameters as they were, with step sizes and zero points beside them.
    pub params: Values,
}

/// See the module.
#[derive(Debug)]
pub struct Calibrator {
    config: ModelConfig,
    quantization: Quantization,
    session: Session,
    params: Values,
    /// Those of activations.
    observers: Vec<(String, Observer)>,
    /// The weights' step sizes, by the names of their quantizers.
    weights: Vec<(String, Steps)>,
    pictures: usize,
}

impl Calibrator {
    /// A calibrator of a model, given by the configuration of the network on codes and the parameters of the one of floats. Weights
    /// are done here.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration that no model can have, one without quantization, or a percentile that is none;
    /// [`Error::NotFinite`] when a weight is no number; failures of the device.
    ///
    /// # Panics
    /// When a parameter of the float network is missing.
    pub fn new(gpu: &Gpu, config: &ModelConfig, params: Values, method: CalibrationMethod) -> Result<Self> {
        config.validate()?;
        let Some(quantization) = config.quantization.clone() else {
            return Err(Error::Config("a model without `quantization` has no step sizes to find".into()));
        };
        let smallest = BatchSize { images: 1, height: 1, width: 1 };
        let net = observing(config, (smallest, Entry::Bytes));
        let quantizer = |place: &Place| Quantizer {
            method: method.of(place),
            zero_point: place.quantizer.zero_point && quantization.zero_points,
            ..place.quantizer
        };
        let (weights, activations): (Vec<&Place>, Vec<&Place>) = net.places().iter().partition(|place| place.weight.is_some());
        let start = |place: &&Place| {
            let name = place.weight.as_ref().expect("it is a weight's");
            let weight = params.get(name).unwrap_or_else(|| panic!("parameter `{name}`"));
            let steps = quantizer(place).start(rows(weight.shape()), &weight.to_f32()).map_err(|e| about(name, e))?;
            Ok((place.name.clone(), steps))
        };
        let weights = weights.par_iter().map(start).collect::<Result<_>>()?;
        let observer = |place: &Place| Ok((place.name.clone(), Observer::new(quantizer(place))?));
        let observers = activations.into_iter().map(observer).collect::<Result<_>>()?;
        let model = config.clone();
        let session = Session::new(gpu, params.clone(), move |given| observing(&model, given).into_parts().0)?;
        Ok(Self { config: config.clone(), quantization, session, params, observers, weights, pictures: 0 })
    }

    /// Takes some pictures into account. All that quantizers would see of them is read back at once, hundreds of megabytes for a
    /// picture of 800 × 1066 pixels: batches should be of one picture or of few.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming what is no number; [`Error::OutOfMemory`]; failures of the device.
    pub fn observe(&mut self, batch: &Batch) -> Result<()> {
        limits::check(&self.config, BatchSize::of(&batch.pictures), Precision::F32, self.session.gpu().limits())?;
        let seen = self.session.answer(&batch.pictures)?;
        self.observers.par_iter_mut().try_for_each(|(name, observer)| {
            let x = &seen[&format!("{OBSERVED}{name}")];
            observer.observe(x.shape(), &x.to_f32()).map_err(|e| about(name, e))
        })?;
        self.pictures += batch.pictures.dims()[0];
        Ok(())
    }

    /// Pictures so far.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// The model on codes.
    ///
    /// # Errors
    /// [`Error::Config`] when there was no picture.
    pub fn finish(self) -> Result<Calibrated> {
        if self.pictures == 0 {
            return Err(Error::Config("step sizes start from pictures, and there was none that could be read".into()));
        }
        let Self { config, mut quantization, mut params, observers, weights, .. } = self;
        let activations = observers.into_par_iter().map(|(name, observer)| Ok((name, observer.steps()?, observer.sign_is_free())));
        let activations: Vec<(String, Steps, bool)> = activations.collect::<Result<_>>()?;
        let is_unsigned = |(name, steps, free): &(String, Steps, bool)| (*free && !steps.levels.signed).then(|| name.clone());
        quantization.unsigned = activations.iter().filter_map(is_unsigned).collect();
        for (name, steps) in weights.into_iter().chain(activations.into_iter().map(|(name, steps, _)| (name, steps))) {
            let mut put = |what: &str, values: Vec<f32>| params.insert(format!("{name}.{what}"), Host::f32([values.len()], values));
            put(ALPHA, steps.alpha);
            steps.zp.map(|zp| put(ZERO_POINT, zp));
        }
        Ok(Calibrated { config: ModelConfig { quantization: Some(quantization), ..config }, params })
    }
}

/// An error with the tensor that it is about.
fn about(name: &str, error: Error) -> Error {
    match error {
        Error::NotFinite(what) => Error::NotFinite(format!("`{name}`: {what}")),
        error => error,
    }
}
