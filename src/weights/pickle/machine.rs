//! The stack machine of pickles: opcodes in, plain values out.

use super::{Global, Id, Pickle, Storage, Tensor, Value, known_global};
use std::collections::HashMap;

/// The checkpoint of a training run with its optimizer has some ten thousand values; this many take 300 MB of memory.
const MOST_VALUES: usize = 1 << 22;

const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;

/// The stack machine. Its errors are texts that end with the place in the file.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Steps and copies that may still be made.
    budget: usize,
}

type Step<T = ()> = Result<T, String>;

/// Runs the program that begins at `start`.
///
/// # Errors
/// See [`Pickle::read`].
pub(super) fn run(bytes: &[u8], start: usize) -> Step<Pickle<'_>> {
    let machine = Machine {
        bytes,
        at: start,
        values: vec![Value::None, Value::Bool(false), Value::Bool(true)],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        budget: MOST_VALUES,
    };
    machine.run()
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Step<Pickle<'a>> {
        loop {
            let start = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { values: self.values, root, end: self.at });
            }
            self.step(opcode).map_err(|what| format!("{what} (at byte {start})"))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Step {
        self.charge(1)?;
        match opcode {
            0x80 => self.protocol(),                                   // PROTO
            0x95 => self.take(8).map(drop),                            // FRAME
            b'(' => self.mark(),                                       // MARK
            b'0' => self.pop().map(drop),                              // POP
            b'1' => self.pop_mark().map(drop),                         // POP_MARK
            b'2' => self.duplicate(),                                  // DUP
            b'N' => self.push_id(NONE),                                // NONE
            0x88 => self.push_id(TRUE),                                // NEWTRUE
            0x89 => self.push_id(FALSE),                               // NEWFALSE
            b'J' => self.int::<4>(true),                               // BININT
            b'K' => self.int::<1>(false),                              // BININT1
            b'M' => self.int::<2>(false),                              // BININT2
            0x8a => self.long::<1>(),                                  // LONG1
            0x8b => self.long::<4>(),                                  // LONG4
            b'G' => self.opaque(8),                                    // BINFLOAT
            b'C' => self.opaque_sized::<1>(),                          // SHORT_BINBYTES
            b'B' => self.opaque_sized::<4>(),                          // BINBYTES
            0x8e => self.opaque_sized::<8>(),                          // BINBYTES8
            0x8c | b'U' => self.string::<1>(),                         // SHORT_BINUNICODE, SHORT_BINSTRING
            b'X' | b'T' => self.string::<4>(),                         // BINUNICODE, BINSTRING
            0x8d => self.string::<8>(),                                // BINUNICODE8
            b')' => self.push(Value::Tuple(Vec::new())),               // EMPTY_TUPLE
            b']' => self.push(Value::List(Vec::new())),                // EMPTY_LIST
            b'}' => self.push(Value::Dict(Vec::new())),                // EMPTY_DICT
            0x85..=0x87 => self.short_tuple(opcode - 0x84),            // TUPLE1, TUPLE2, TUPLE3
            b't' => self.tuple(),                                      // TUPLE
            b'a' => self.append(),                                     // APPEND
            b'e' => self.appends(),                                    // APPENDS
            b's' => self.set_item(),                                   // SETITEM
            b'u' => self.set_items(),                                  // SETITEMS
            b'q' => self.number::<1>().and_then(|i| self.remember(i)), // BINPUT
            b'r' => self.number::<4>().and_then(|i| self.remember(i)), // LONG_BINPUT
            0x94 => self.remember(self.memo.len() as u64),             // MEMOIZE
            b'h' => self.number::<1>().and_then(|i| self.recall(i)),   // BINGET
            b'j' => self.number::<4>().and_then(|i| self.recall(i)),   // LONG_BINGET
            b'c' => self.global(),                                     // GLOBAL
            0x93 => self.stack_global(),                               // STACK_GLOBAL
            b'Q' => self.persistent(),                                 // BINPERSID
            b'R' => self.reduce(),                                     // REDUCE
            0x81 => self.new_object(),                                 // NEWOBJ
            b'b' => self.build(),                                      // BUILD
            _ => Err(format!("the pickle's opcode {} is not allowed in a checkpoint", opcode_name(opcode))),
        }
    }

    fn charge(&mut self, steps: usize) -> Step {
        self.budget = self.budget.checked_sub(steps).ok_or_else(|| format!("the pickle holds more than {MOST_VALUES} values"))?;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or_else(|| {
            format!("the pickle is truncated: {count} more bytes announced at byte {}, the file has {}", self.at, rest.len())
        })?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Step<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// Bytes behind their length, itself of `N` bytes.
    fn sized<const N: usize>(&mut self) -> Step<&'a [u8]> {
        let count = self.number::<N>()?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&b| b == b'\n').ok_or("a name in the pickle has no end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name in the pickle is not UTF-8".into())
    }

    fn push_id(&mut self, id: Id) -> Step {
        self.stack.push(id);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Step {
        // The budget keeps the number of values far below 2^32.
        let id = self.values.len() as Id;
        self.values.push(value);
        self.push_id(id)
    }

    /// Takes the topmost value, never one below the last mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes from an empty stack".into())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the pickle takes from an empty stack".into())
    }

    fn mark(&mut self) -> Step {
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("the pickle takes a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn duplicate(&mut self) -> Step {
        let top = self.top()?;
        self.push_id(top)
    }

    fn protocol(&mut self) -> Step {
        match self.byte()? {
            0..=5 => Ok(()),
            version => Err(format!("pickle protocol {version} is none that exists")),
        }
    }

    fn int<const N: usize>(&mut self, signed: bool) -> Step {
        let wide = self.number::<N>()?;
        let value = if signed { i128::from(wide as u32 as i32) } else { i128::from(wide) };
        self.push(Value::Int(value))
    }

    fn long<const N: usize>(&mut self) -> Step {
        let digits = self.sized::<N>()?;
        if digits.len() > 16 {
            return Err(format!("an integer of {} bytes is none a checkpoint needs", digits.len()));
        }
        let sign = digits.last().is_some_and(|&b| b >= 0x80);
        let mut wide = [if sign { 0xff } else { 0 }; 16];
        wide[..digits.len()].copy_from_slice(digits);
        self.push(Value::Int(i128::from_le_bytes(wide)))
    }

    fn opaque(&mut self, count: usize) -> Step {
        self.take(count)?;
        self.push(Value::Opaque)
    }

    fn opaque_sized<const N: usize>(&mut self) -> Step {
        self.sized::<N>()?;
        self.push(Value::Opaque)
    }

    fn string<const N: usize>(&mut self) -> Step {
        let text = std::str::from_utf8(self.sized::<N>()?).map_err(|_| "a string in the pickle is not UTF-8")?;
        self.push(Value::Str(text))
    }

    fn short_tuple(&mut self, count: u8) -> Step {
        let mut items = (0..count).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn tuple(&mut self) -> Step {
        let items = self.pop_mark()?;
        self.push(Value::Tuple(items))
    }

    fn append(&mut self) -> Step {
        let item = self.pop()?;
        self.extend_list(vec![item])
    }

    fn appends(&mut self) -> Step {
        let items = self.pop_mark()?;
        self.extend_list(items)
    }

    fn extend_list(&mut self, new: Vec<Id>) -> Step {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(items) => items.extend(new),
            _ => return Err("the pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_item(&mut self) -> Step {
        let (value, key) = (self.pop()?, self.pop()?);
        self.extend_dict(&[key, value])
    }

    fn set_items(&mut self) -> Step {
        let items = self.pop_mark()?;
        self.extend_dict(&items)
    }

    fn extend_dict(&mut self, new: &[Id]) -> Step {
        let dict = self.top()?;
        let (pairs, rest) = new.as_chunks::<2>();
        match &mut self.values[dict as usize] {
            Value::Dict(items) if rest.is_empty() => items.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err("the pickle sets items of what is no dictionary, or a key without a value".into()),
        }
        Ok(())
    }

    fn remember(&mut self, index: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(index as u32, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Step {
        let id = self.memo.get(&(index as u32)).copied();
        self.push_id(id.ok_or_else(|| format!("the pickle recalls memo {index}, which it never stored"))?)
    }

    fn global(&mut self) -> Step {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(known_global(module, name)?))
    }

    fn stack_global(&mut self) -> Step {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.values[module as usize], &self.values[name as usize]) {
            (&Value::Str(module), &Value::Str(name)) => self.push(Value::Global(known_global(module, name)?)),
            _ => Err("the pickle names a global by what is no text".into()),
        }
    }

    fn reduce(&mut self) -> Step {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.values[arguments as usize] else {
            return Err("the pickle calls a function with what is no tuple".into());
        };
        match (&self.values[function as usize], arguments.as_slice()) {
            (Value::Global(Global::OrderedDict), []) => self.push(Value::Dict(Vec::new())),
            (Value::Global(Global::OrderedDict), &[pairs]) => self.ordered_dict(pairs),
            (Value::Global(Global::RebuildTensor), &[storage, offset, dims, strides, ..]) => self.tensor(storage, offset, dims, strides),
            (Value::Global(Global::RebuildParameter), &[tensor, ..]) => self.push_id(tensor),
            _ => Err("the pickle calls what is no function of a checkpoint, or with the wrong arguments".into()),
        }
    }

    /// Python 2 pickled an `OrderedDict` as a list of pairs.
    fn ordered_dict(&mut self, pairs: Id) -> Step {
        let Value::List(pairs) = &self.values[pairs as usize] else { return Err("an OrderedDict is not made of a list".into()) };
        let pairs = pairs.clone();
        // A few bytes may use a long list again and again: each copy counts.
        self.charge(pairs.len())?;
        let pair = |id: &Id| match &self.values[*id as usize] {
            Value::List(items) | Value::Tuple(items) => <[Id; 2]>::try_from(items.as_slice()).ok().map(|[key, value]| (key, value)),
            _ => None,
        };
        let items = pairs.iter().map(pair).collect::<Option<Vec<_>>>().ok_or("an OrderedDict is not made of pairs")?;
        self.push(Value::Dict(items))
    }

    fn tensor(&mut self, storage: Id, offset: Id, dims: Id, strides: Id) -> Step {
        if !matches!(self.values[storage as usize], Value::Storage(_)) {
            return Err("the pickle makes a tensor of what is no storage".into());
        }
        let (offset, dims, strides) = (self.size(offset)?, self.sizes(dims)?, self.sizes(strides)?);
        self.push(Value::Tensor(Tensor { storage, offset, dims, strides }))
    }

    fn size(&self, id: Id) -> Step<usize> {
        match self.values[id as usize] {
            Value::Int(n) => usize::try_from(n).map_err(|_| format!("a tensor's offset, size or stride is {n}")),
            _ => Err("a tensor's offset, size or stride is no integer".into()),
        }
    }

    fn sizes(&self, id: Id) -> Step<Vec<usize>> {
        match &self.values[id as usize] {
            Value::Tuple(items) | Value::List(items) if items.len() <= 8 => items.iter().map(|&item| self.size(item)).collect(),
            _ => Err("a tensor's size is no tuple of at most eight integers".into()),
        }
    }

    /// `('storage', type, key, device, count)`, in old files with `(key, start, count)` of a view behind it.
    fn persistent(&mut self) -> Step {
        const WRONG: &str = "the pickle refers to something outside that is no storage";
        let id = self.pop()?;
        let value = |id: Id| &self.values[id as usize];
        let Value::Tuple(parts) = value(id) else { return Err(WRONG.into()) };
        let (&[tag, class, key, _device, count], view) = parts.split_first_chunk::<5>().ok_or(WRONG)?;
        let (&Value::Str("storage"), &Value::Global(Global::Storage(element)), &Value::Str(key)) = (value(tag), value(class), value(key))
        else {
            return Err(WRONG.into());
        };
        let start = match view.first().map(|&view| value(view)) {
            None | Some(Value::None) => 0,
            Some(Value::Tuple(view)) => self.size(*view.get(1).ok_or(WRONG)?)?,
            Some(_) => return Err(WRONG.into()),
        };
        let count = self.size(count)?;
        self.push(Value::Storage(Storage { key, element, count, start }))
    }

    fn new_object(&mut self) -> Step {
        let (_arguments, class) = (self.pop()?, self.pop()?);
        match self.values[class as usize] {
            Value::Global(Global::Namespace) => self.push(Value::Namespace(None)),
            Value::Global(Global::OrderedDict) => self.push(Value::Dict(Vec::new())),
            _ => Err("the pickle makes an object of what is no class of a checkpoint".into()),
        }
    }

    /// Attributes of an object: of interest for a namespace, not for an `OrderedDict`, whose `_metadata` are versions.
    fn build(&mut self) -> Step {
        let (state, object) = (self.pop()?, self.top()?);
        match &mut self.values[object as usize] {
            Value::Namespace(attributes) => *attributes = Some(state),
            Value::Dict(_) => {}
            _ => return Err("the pickle sets attributes of what has none".into()),
        }
        Ok(())
    }
}

/// The opcodes that a pickle may have and a checkpoint may not.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'd' => "DICT",
        b'l' => "LIST",
        b'g' => "GET",
        b'p' => "PUT",
        0x82..=0x84 => "EXT",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => "unknown",
    };
    format!("0x{opcode:02x} ({name})")
}
