//! Pickles that want to do something, to take all memory, or are damaged.

use super::{golden, load_bytes, one_line, refusal, zip_of};
use qdetr::tensor::Host;

/// A pickle under construction.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, value: i64) -> Self {
        self.raw(&[0x8a, 8]).raw(&value.to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.raw(b"("), |pickle, &value| pickle.int(value)).raw(b"t")
    }

    fn storage(self, class: &str, count: i64) -> Self {
        self.raw(b"(").text("storage").global("torch", class).text("0").text("cpu").int(count).raw(b"tQ")
    }

    /// A tensor of storage `0`.
    fn tensor(self, class: &str, count: i64, offset: i64, dims: &[i64], strides: &[i64]) -> Self {
        let arguments = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"(").storage(class, count).int(offset);
        arguments.ints(dims).ints(strides).raw(b"\x89)tR")
    }

    fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }

    /// The file in PyTorch's zip form, with 16 bytes of storage.
    fn zip(self) -> Vec<u8> {
        zip_of(&self.end(), &[("0", &[0; 16])])
    }

    /// The file in PyTorch's older form, with four floats of storage if the pickle speaks of one.
    fn legacy(self) -> Vec<u8> {
        let magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
        let head = Self(magic.to_vec()).raw(b"\x80\x02M\xe9\x03.").raw(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
        if !self.0.windows(7).any(|w| w == b"Storage") {
            return head.raw(&self.end()).raw(b"\x80\x02].").0;
        }
        head.raw(&self.end()).raw(b"\x80\x02]").text("0").raw(b"a.").raw(&4u64.to_le_bytes()).raw(&[0; 16]).0
    }
}

/// A state dict with one tensor of four floats, as the pickle goes on behind `{name:`.
fn dict(name: &str) -> Pickle {
    Pickle::new().raw(b"}").text(name)
}

fn good() -> Pickle {
    dict("backbone.0.body.bn1.weight").tensor("FloatStorage", 4, 0, &[4], &[1]).raw(b"s")
}

#[track_caller]
fn both_refuse(pickle: Pickle, expected: &str) {
    for bytes in [pickle.clone().zip(), pickle.legacy()] {
        let text = refusal("model.pth", &bytes);
        assert!(text.contains(expected), "want {expected}, found {text}");
    }
}

#[test]
fn a_hand_made_checkpoint_loads_in_both_forms() {
    for bytes in [good().zip(), good().legacy()] {
        let tensors = load_bytes("model.pth", &bytes).unwrap().tensors;
        assert_eq!(tensors["backbone.0.body.bn1.weight"], Host::f32([4], vec![0.0; 4]));
    }
}

#[test]
fn nothing_is_called_that_a_state_dict_does_not_need() {
    let calls =
        [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load"), ("__main__", "DETR"), ("torch.nn", "Linear")];
    for (module, name) in calls {
        let global = format!("asks for `{module}.{name}`");
        both_refuse(Pickle::new().global(module, name).text("echo owned").raw(b"\x85R"), &global);
        both_refuse(Pickle::new().text(module).text(name).raw(b"\x93"), &global);
    }
    both_refuse(Pickle::new().raw(b"(ios\nsystem\n"), "INST");
    both_refuse(Pickle::new().raw(b"(o"), "OBJ");
    both_refuse(Pickle::new().raw(b"(cargparse\nNamespace\no"), "OBJ");
    both_refuse(Pickle::new().raw(b"\x82\x01"), "EXT");
    both_refuse(Pickle::new().raw(b"Pos.system\n"), "PERSID");
    both_refuse(Pickle::new().raw(b"\xfe"), "0xfe (unknown) is not allowed in a checkpoint (at byte ");
    both_refuse(Pickle::new().raw(b"\x80\x09"), "protocol 9");
    both_refuse(Pickle::new().global(&"long".repeat(1000), "name"), "no end");
}

#[test]
fn what_is_known_is_not_called_with_anything_else() {
    let rebuild = || Pickle::new().global("torch._utils", "_rebuild_tensor_v2");
    both_refuse(rebuild().raw(b")R"), "wrong arguments");
    both_refuse(rebuild().raw(b"NR"), "no tuple");
    both_refuse(Pickle::new().global("torch", "FloatStorage").raw(b")R"), "no function");
    both_refuse(Pickle::new().global("argparse", "Namespace").raw(b")R"), "no function");
    both_refuse(Pickle::new().text("text").raw(b")R"), "no function");
    both_refuse(Pickle::new().global("torch", "FloatStorage").raw(b")\x81"), "no class");
    both_refuse(Pickle::new().text("text").raw(b"}b"), "sets attributes");
    both_refuse(rebuild().raw(b"(").text("storage").int(0).ints(&[1]).ints(&[1]).raw(b"tR"), "no storage");
    both_refuse(rebuild().raw(b"(").storage("FloatStorage", 4).text("0").ints(&[1]).ints(&[1]).raw(b"tR"), "no integer");
    both_refuse(rebuild().raw(b"(").storage("FloatStorage", 4).int(0).ints(&[1; 9]).ints(&[1; 9]).raw(b"tR"), "eight");
    both_refuse(Pickle::new().global("collections", "OrderedDict").raw(b"]K\x01a\x85R"), "pairs");
    both_refuse(Pickle::new().raw(b"NQ"), "no storage");
    both_refuse(Pickle::new().raw(b"(").text("module").raw(b"NNNNtQ"), "no storage");
}

#[test]
fn the_stack_and_the_memo_hold() {
    both_refuse(Pickle::new().raw(b""), "empty stack");
    both_refuse(Pickle::new().raw(b"0"), "empty stack");
    both_refuse(Pickle::new().raw(b"N(0"), "empty stack");
    both_refuse(Pickle::new().raw(b"2"), "empty stack");
    both_refuse(Pickle::new().raw(b"\x87"), "empty stack");
    both_refuse(Pickle::new().raw(b"t"), "mark that it never set");
    both_refuse(Pickle::new().raw(b"N("), "empty stack");
    both_refuse(Pickle::new().raw(b"NNa"), "no list");
    both_refuse(Pickle::new().raw(b"N(Ne"), "no list");
    both_refuse(Pickle::new().raw(b"}(Nu"), "key without a value");
    both_refuse(Pickle::new().raw(b"NNNs"), "no dictionary");
    both_refuse(Pickle::new().raw(b"h\x05"), "memo 5");
    both_refuse(Pickle::new().raw(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"), "memo 4294967294");
    both_refuse(Pickle::new().raw(b"\x8a\xff"), "truncated");
    both_refuse(Pickle::new().raw(&[0x8a, 17]).raw(&[0; 17]), "17 bytes");
}

#[test]
fn state_dicts_of_something_else_are_refused() {
    both_refuse(Pickle::new().raw(b"N"), "no state dict");
    both_refuse(Pickle::new().raw(b"]"), "no state dict");
    both_refuse(Pickle::new().raw(b"}K\x01Ns"), "name is no text");
    both_refuse(dict("epoch").raw(b"K\x03s"), "`epoch` is not a tensor");
    both_refuse(Pickle::new().raw(b"}"), "holds 0 tensors");
    both_refuse(dict("query").tensor("FloatStorage", 4, 0, &[4], &[1]).raw(b"s"), "the first is `query`");
    let twice = good().text("backbone.0.body.bn1.weight").tensor("FloatStorage", 4, 0, &[4], &[1]).raw(b"s");
    both_refuse(twice, "`backbone.0.body.bn1.weight` twice");
    let arguments = Pickle::new().global("argparse", "Namespace").raw(b")\x81}").text("pre_norm").raw(b"\x88sb").0;
    let run = Pickle::new().raw(b"}").text("model").raw(&good().0[2..]).raw(b"s").text("args").raw(&arguments[2..]).raw(b"s");
    both_refuse(run, "pre_norm");
}

#[test]
fn tensors_stay_inside_their_storage() {
    let view = |offset: i64, dims: &[i64], strides: &[i64]| {
        dict("backbone.0.body.bn1.weight").tensor("FloatStorage", 4, offset, dims, strides).raw(b"s")
    };
    for (offset, dims, strides) in [
        (0, vec![5], vec![1]),
        (1, vec![4], vec![1]),
        (0, vec![2, 2], vec![4, 1]),
        (i64::MAX, vec![4], vec![1]),
        (0, vec![i64::MAX, i64::MAX], vec![i64::MAX, i64::MAX]),
    ] {
        both_refuse(view(offset, &dims, &strides), "beyond its storage");
    }
    both_refuse(view(-1, &[4], &[1]), "is -1");
    both_refuse(view(0, &[-4], &[1]), "is -4");
    both_refuse(view(0, &[4], &[-1]), "is -1");
    both_refuse(view(0, &[4], &[1, 1]), "1 dimensions and 2 strides");
    both_refuse(view(0, &[4, 0], &[1, 1]), "shape [4, 0]");
    // A storage that is longer than the file says, and one that is not there.
    for count in [5, i64::MAX, -1] {
        let lie = || dict("backbone.0.body.bn1.weight").tensor("FloatStorage", count, 0, &[4], &[1]).raw(b"s");
        refusal("model.pth", &lie().zip());
        refusal("model.pth", &lie().legacy());
    }
    let missing = zip_of(&good().end(), &[("1", &[0; 16])]);
    assert!(refusal("model.pth", &missing).contains("no storage `archive/data/0`"));
}

#[test]
fn integers_are_no_weights() {
    for (class, name) in [("LongStorage", "I64"), ("IntStorage", "I32"), ("ByteStorage", "U8"), ("BoolStorage", "BOOL")] {
        let text = refusal("model.pth", &dict("backbone.0.body.bn1.weight").tensor(class, 2, 0, &[2], &[1]).raw(b"s").zip());
        assert!(text.contains(&format!("holds {name} values")), "{text}");
    }
}

#[test]
fn memory_is_bounded_by_the_file() {
    // Four bytes that claim to be a tensor of 2^31 elements, by strides of zero.
    let expanded = dict("backbone.0.body.bn1.weight").tensor("FloatStorage", 4, 0, &[1 << 31], &[0]).raw(b"s");
    both_refuse(expanded, "more than four times its own size");
    // One storage as a thousand tensors.
    let mut many = Pickle::new().raw(b"}");
    for i in 0..1000 {
        many = many.text(&format!("backbone.0.body.layer1.{i}.bn1.weight")).tensor("FloatStorage", 16384, 0, &[16384], &[1]).raw(b"s");
    }
    let text = refusal("model.pth", &zip_of(&many.end(), &[("0", &[0; 65536])]));
    assert!(text.contains("more than four times its own size"), "{text}");
    // Opcodes without end.
    both_refuse(Pickle::new().raw(&vec![b'N'; 5 << 20]), "more than 4194304 values");
    both_refuse(Pickle::new().raw(&b")".repeat(5 << 20)), "more than 4194304 values");
    // A list of pairs that is copied a thousand times.
    let list = Pickle::new().raw(b"]q\x00(").raw(&b"NN\x86".repeat(100_000)).raw(b"e").global("collections", "OrderedDict").raw(b"q\x01");
    both_refuse(list.raw(&b"h\x01h\x00\x85R".repeat(1000)), "more than 4194304 values");
}

#[test]
fn nesting_has_no_depth() {
    // Lists in lists, tuples in tuples, a list that holds itself: values are a flat list, dropping them is no recursion.
    let depth = 500_000;
    both_refuse(Pickle::new().raw(&b"]".repeat(depth)).raw(&b"a".repeat(depth - 1)), "no state dict");
    both_refuse(Pickle::new().raw(b")").raw(&b"\x85".repeat(depth)), "no state dict");
    both_refuse(Pickle::new().raw(&b"(".repeat(depth)).raw(&b"t".repeat(depth)), "no state dict");
    both_refuse(Pickle::new().raw(b"]q\x00h\x00a"), "no state dict");
    both_refuse(Pickle::new().raw(b"}q\x00").text("model").raw(b"h\x00s"), "`model` is not a tensor");
}

#[test]
fn every_truncation_is_an_error() {
    for file in ["odd.pth", "odd_legacy.pth"] {
        let whole = std::fs::read(golden(&format!("weights/{file}"))).unwrap();
        for length in 0..whole.len() {
            refusal(file, &whole[..length]);
        }
    }
}

#[test]
fn no_flipped_bit_makes_it_panic() {
    let flip = |name: &str, whole: &[u8], masks: &[u8]| {
        for at in 0..whole.len() {
            for mask in masks {
                let mut bytes = whole.to_vec();
                bytes[at] ^= mask;
                if let Err(error) = load_bytes(name, &bytes) {
                    one_line(&error, name);
                }
            }
        }
    };
    flip("zip", &good().zip(), &[0x01, 0x04, 0x10, 0x80]);
    flip("legacy", &good().legacy(), &[0x01, 0x04, 0x10, 0x80]);
    for file in ["odd.pth", "odd_legacy.pth"] {
        flip(file, &std::fs::read(golden(&format!("weights/{file}"))).unwrap(), &[0xff]);
    }
}

#[test]
fn archives_that_are_no_checkpoint_are_refused() {
    let empty = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut other = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    other
        .start_file("word/document.xml", zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored))
        .unwrap();
    refusal("model.pth", empty.finish().unwrap().get_ref());
    assert!(refusal("model.pth", other.finish().unwrap().get_ref()).contains("without `data.pkl`"));
    // A method that PyTorch never uses, marked in both places of the archive.
    let mut deflated = good().zip();
    let central = deflated.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    (deflated[8], deflated[central + 10]) = (8, 8);
    assert!(refusal("model.pth", &deflated).contains("compressed"));
    let mut big = good().zip();
    let at = big.windows(6).position(|w| w == b"little").unwrap();
    big[at..at + 6].copy_from_slice(b"big   ");
    assert!(refusal("model.pth", &big).contains("big-endian"));
    assert!(refusal("model.pth", b"\x80\x02N.").contains("not a PyTorch checkpoint"));
}
