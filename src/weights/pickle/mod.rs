//! A reader of pickles that can execute nothing.
//!
//! Python's pickle is a program for a stack machine that may call any function. Here the machine knows the few names that a
//! state dict needs, makes plain values of them, and refuses every other name and every opcode it has no use for. Values lie in
//! one list and refer to each other by index, so that neither nesting nor cycles can exhaust the stack, and their number is
//! limited.

mod machine;

use super::raw::{Element, quoted};

/// Index of a value in a [`Pickle`].
pub(super) type Id = u32;

/// What a pickle may hold.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    /// Wide enough for the ten bytes of PyTorch's magic number.
    Int(i128),
    /// A number whose value nobody needs, or bytes.
    Opaque,
    Str(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A `dict` or an `OrderedDict`.
    Dict(Vec<(Id, Id)>),
    /// An `argparse.Namespace` and its attributes, once they are known.
    Namespace(Option<Id>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(Tensor),
}

/// The names a state dict needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    Namespace,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

/// A block of elements that lies elsewhere in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) element: Element,
    /// Elements of the whole block.
    pub(super) count: usize,
    /// Where this view of the block begins; 0 in all but old files.
    pub(super) start: usize,
}

/// A strided view of a [`Storage`]; offset and strides count elements.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Id,
    pub(super) offset: usize,
    pub(super) dims: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A pickle that was read: its values, which of them is the outermost, and where in the file it ends.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    pub(super) end: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that begins at `start`.
    ///
    /// # Errors
    /// When it is damaged, too large, or asks for anything beyond plain values; the text names what and where.
    pub(super) fn read(bytes: &'a [u8], start: usize) -> Result<Self, String> {
        machine::run(bytes, start)
    }

    /// The outermost value.
    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// A value by its index.
    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// All values, reachable or not.
    pub(super) fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// A value of a dictionary by its name.
    pub(super) fn item(&self, dict: &Value<'a>, name: &str) -> Option<&Value<'a>> {
        let Value::Dict(items) = dict else { return None };
        items.iter().find(|(key, _)| matches!(self.get(*key), Value::Str(key) if *key == name)).map(|(_, value)| self.get(*value))
    }
}

fn known_global(module: &str, name: &str) -> Result<Global, String> {
    let other = |name, size| Global::Storage(Element::Other { name, size });
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("argparse", "Namespace") => Global::Namespace,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "FloatStorage") => Global::Storage(Element::F32),
        ("torch", "HalfStorage") => Global::Storage(Element::F16),
        ("torch", "BFloat16Storage") => Global::Storage(Element::Bf16),
        ("torch", "DoubleStorage") => Global::Storage(Element::F64),
        ("torch", "LongStorage") => other("I64", 8),
        ("torch", "IntStorage") => other("I32", 4),
        ("torch", "ShortStorage") => other("I16", 2),
        ("torch", "CharStorage") => other("I8", 1),
        ("torch", "ByteStorage") => other("U8", 1),
        ("torch", "BoolStorage") => other("BOOL", 1),
        _ => {
            let global = quoted(&format!("{module}.{name}"));
            return Err(format!("the pickle asks for {global}, which no state dict needs; it was not executed"));
        }
    })
}
