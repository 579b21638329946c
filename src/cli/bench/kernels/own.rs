//! A user's variant of a kernel, in place of ours.

use crate::cli::bench::measure::Bench;
use crate::cli::bench::subject::Subject;
use qdetr::files::read_text;
use qdetr::gpu::shader::{self, COMMON, Source};
use qdetr::gpu::{Capabilities, Dispatch};
use qdetr::graph::check::{Case, check_case};
use qdetr::graph::{Graph, Io, Op, Var};
use qdetr::tensor::{Host, TensorType};
use qdetr::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The most that is read of a shader.
const MAX_BYTES: u64 = 1 << 20;

/// A shader file, and which of ours it replaces.
pub(super) struct Own<'a> {
    path: &'a Path,
    source: Source,
    replaces: &'static str,
}

impl<'a> Own<'a> {
    /// Reads a shader; leaves only subjects whose best kernel it can replace.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not clear which kernel it stands for; [`Error::Io`] and [`Error::Format`].
    pub(super) fn read(path: &'a Path, bench: &Bench, subjects: &mut Vec<Subject>) -> Result<Self> {
        let text = read_text(path, MAX_BYTES)?;
        for name in text.lines().filter_map(|line| line.strip_prefix("#import ")).map(str::trim) {
            if !COMMON.iter().any(|common| common.name == name) {
                let known: Vec<&str> = COMMON.iter().map(|common| common.name).collect();
                return Err(Error::format(path, format!("imports `{name}`; there are {}", known.join(", "))));
            }
        }
        let best = |subject: &Subject| bench.kernels(subject)[0].source.name;
        let candidates: BTreeSet<&'static str> = subjects.iter().map(best).collect();
        let same_name = |name: &&&'static str| Path::new(name).file_name() == path.file_name();
        let replaces = match (candidates.iter().find(same_name).copied(), candidates.len()) {
            (Some(name), _) => name,
            (None, 1) => candidates.into_iter().next().expect("one"),
            (None, _) => {
                let all: Vec<&str> = candidates.into_iter().collect();
                let what = "--filter fits cases of several kernels: narrow it to one, or name the file as the one that it replaces";
                return Err(Error::Usage(format!("{what}: {}", all.join(", "))));
            }
        };
        subjects.retain(|subject| best(subject) == replaces);
        // A shader's source lives as long as the program, and this program reads one.
        let source = Source { name: replaces, text: Box::leak(text.into_boxed_str()) };
        Ok(Self { path, source, replaces })
    }

    /// The op with this shader as its only kernel.
    pub(super) fn replace(&self, op: &Arc<dyn Op>) -> Arc<dyn Op> {
        Arc::new(Replaced { op: op.clone(), source: self.source })
    }

    /// Proves the shader: it is valid, binds what ours binds, and agrees with the CPU twin on all cases of the op table whose best
    /// kernel it replaces.
    ///
    /// # Errors
    /// [`Error::Format`] with naga's message, or with the first case that is wrong.
    pub(super) fn prove(&self, bench: &Bench, subjects: &[Subject]) -> Result<()> {
        let ops: BTreeSet<&str> = subjects.iter().map(|s| s.op.name()).collect();
        for subject in subjects {
            self.prove_binds(bench, &bench.kernels(subject)[0])?;
        }
        for op in ops {
            for (case, _) in bench.cases_with(op, |i, kernel| i == 0 && kernel.source.name == self.replaces) {
                let types: Vec<TensorType> = case.inputs.iter().map(Host::ty).collect();
                let kernels = case.op.kernels(&types, &case.op.outputs(&types), bench.gpu.capabilities());
                self.prove_binds(bench, &kernels[0])?;
                let own = Case { op: self.replace(&case.op), ..case.clone() };
                if let Err(what) = &check_case(&bench.gpu, &own)?[0].result {
                    let what =
                        format!("computes something else than the CPU twin, which {} agrees with: {}: {what}", self.replaces, case.name());
                    return Err(Error::format(self.path, what));
                }
            }
        }
        Ok(())
    }

    fn prove_binds(&self, bench: &Bench, ours: &Dispatch) -> Result<()> {
        let own = Dispatch { source: self.source, ..ours.clone() };
        let wrong = |what: String| Error::format(self.path, format!("in place of {}: {what}", self.replaces));
        let (_, found) = shader::reflect(&shader::compose(&own)).map_err(wrong)?;
        let (_, wanted) = shader::reflect(&shader::compose(ours)).expect("ours is valid");
        if found.bindings != wanted.bindings || found.params_size != wanted.params_size {
            let tell = |r: &shader::Reflection| format!("{:?} with {} bytes of parameters", r.bindings, r.params_size);
            return Err(wrong(format!("expected the bindings {}, found {}", tell(&wanted), tell(&found))));
        }
        match bench.gpu.compile(&[&own]) {
            Err(Error::Driver(what)) => Err(wrong(what)),
            other => other.map(|_| ()),
        }
    }
}

/// An op with another shader in its best kernel.
#[derive(Debug)]
struct Replaced {
    op: Arc<dyn Op>,
    source: Source,
}

impl Op for Replaced {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        self.op.outputs(inputs)
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        self.op.reference(inputs, outputs)
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
        let best = self.op.kernels(inputs, outputs, device).into_iter().find(|k| device.allows(k.tier));
        best.into_iter().map(|ours| Dispatch { source: self.source, ..ours }).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        self.op.gradient(graph, io, d_outputs, wanted)
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        self.op.in_place()
    }

    fn operations(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        self.op.operations(inputs, outputs)
    }
}
