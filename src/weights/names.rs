//! How each source names the parameters of a DETR: one table a source, read in both directions.
//!
//! A table is a list of pairs, our name and theirs, written as patterns of dot-separated words:
//!
//! | in a pattern | stands for |
//! | --- | --- |
//! | `#` at the end of a word | a number counted from 0 |
//! | `@` at the end of a word | the same number counted from 1 |
//! | `?` | one word |
//! | `*` (last) | one or more words |
//!
//! What both sides of a pair capture, they capture in the same order. Names were read from the sources themselves:
//! the original repository at `29901c5`, torchvision 0.20, transformers 4.57 and 5.23; the lists that those programs print are
//! golden files of the tests.

use std::fmt;

/// Where a checkpoint's names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Our own names: every name stands for itself.
    Qdetr,
    /// The original DETR; query, key and value projections are packed in `in_proj_weight` and `in_proj_bias`.
    Original,
    /// torchvision's classifiers, ResNet and MobileNetV2: a backbone and nothing else.
    Torchvision,
    /// Hugging Face files with a timm-named ResNet. What transformers 5 saves, too: it renames back while saving.
    HuggingFaceTimm,
    /// Hugging Face files with transformers' own ResNet.
    HuggingFaceResnet,
    /// The names transformers 5 uses in memory (`o_proj`, `mlp.fc1`), timm-named ResNet.
    Transformers5Timm,
    /// The names transformers 5 uses in memory, its own ResNet.
    Transformers5Resnet,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qdetr => "qdetr",
            Self::Original => "the original DETR",
            Self::Torchvision => "torchvision",
            Self::HuggingFaceTimm => "Hugging Face with a timm backbone",
            Self::HuggingFaceResnet => "Hugging Face with its own ResNet",
            Self::Transformers5Timm => "transformers 5 with a timm backbone",
            Self::Transformers5Resnet => "transformers 5 with its own ResNet",
        })
    }
}

/// A parameter under one source's name, or a third of the rows of one: query, key and value projections are packed in the
/// original DETR.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The name.
    pub name: String,
    /// Which third of the rows: 0 query, 1 key, 2 value; `None` for the whole tensor.
    pub third: Option<usize>,
}

/// timm's ResNet below a prefix: torchvision's names.
macro_rules! timm_backbone {
    ($prefix:literal) => {
        const {
            &[
                pair("backbone.0.body.conv1.weight", concat!($prefix, "conv1.weight")),
                pair("backbone.0.body.bn1.*", concat!($prefix, "bn1.*")),
                pair("backbone.0.body.layer#.#.*", concat!($prefix, "layer#.#.*")),
            ]
        }
    };
}

/// transformers' own ResNet below a prefix.
macro_rules! resnet_backbone {
    ($prefix:literal) => {
        const {
            &[
                pair("backbone.0.body.conv1.weight", concat!($prefix, "embedder.embedder.convolution.weight")),
                pair("backbone.0.body.bn1.*", concat!($prefix, "embedder.embedder.normalization.*")),
                pair("backbone.0.body.layer@.#.conv@.weight", concat!($prefix, "encoder.stages.#.layers.#.layer.#.convolution.weight")),
                pair("backbone.0.body.layer@.#.bn@.*", concat!($prefix, "encoder.stages.#.layers.#.layer.#.normalization.*")),
                pair(
                    "backbone.0.body.layer@.#.downsample.0.weight",
                    concat!($prefix, "encoder.stages.#.layers.#.shortcut.convolution.weight"),
                ),
                pair("backbone.0.body.layer@.#.downsample.1.*", concat!($prefix, "encoder.stages.#.layers.#.shortcut.normalization.*")),
            ]
        }
    };
}

impl Dialect {
    /// The foreign sources, in the order in which a file is tried for them.
    pub const FOREIGN: [Self; 6] = [
        Self::Original,
        Self::Torchvision,
        Self::HuggingFaceTimm,
        Self::HuggingFaceResnet,
        Self::Transformers5Timm,
        Self::Transformers5Resnet,
    ];

    /// Whether the names are those of a Hugging Face model, whose configuration lies beside it.
    pub fn is_hugging_face(self) -> bool {
        !matches!(self, Self::Qdetr | Self::Original | Self::Torchvision)
    }

    /// Our names for one of the source's tensors, each with the third of the rows that it is; empty for a name that the
    /// source does not have.
    pub fn to_canonical(self, name: &str) -> Vec<Place> {
        if self == Self::Qdetr {
            return vec![Place { name: name.to_owned(), third: None }];
        }
        let translate = |rule: &Rule| capture(rule.theirs, name).map(|parts| Place { name: render(rule.ours, &parts), third: rule.third });
        self.rules().filter_map(translate).collect()
    }

    /// The source's name for one of our parameters; `None` when the source has no such parameter.
    pub fn from_canonical(self, name: &str) -> Option<Place> {
        if self == Self::Qdetr {
            return Some(Place { name: name.to_owned(), third: None });
        }
        let translate = |rule: &Rule| capture(rule.ours, name).map(|parts| Place { name: render(rule.theirs, &parts), third: rule.third });
        self.rules().find_map(translate)
    }

    /// The source that knows most of the names; `None` when none knows any.
    pub fn detect<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let known = |dialect: Self| names.clone().filter(|name| dialect.rules().any(|rule| capture(rule.theirs, name).is_some())).count();
        // Of equals `max_by_key` takes the last, and we want the first.
        Self::FOREIGN.into_iter().rev().map(|d| (known(d), d)).max_by_key(|(n, _)| *n).filter(|(n, _)| *n > 0).map(|(_, d)| d)
    }

    fn rules(self) -> impl Iterator<Item = &'static Rule> {
        let tables: [&'static [Rule]; 3] = match self {
            Self::Qdetr => [&[], &[], &[]],
            Self::Original => [PACKED, ORIGINAL, &[]],
            Self::Torchvision => [TORCHVISION, &[], &[]],
            Self::HuggingFaceTimm => [HUGGING_FACE, LAYERS_4, timm_backbone!("model.backbone.conv_encoder.model.")],
            Self::HuggingFaceResnet => [HUGGING_FACE, LAYERS_4, resnet_backbone!("model.backbone.conv_encoder.model.")],
            Self::Transformers5Timm => [HUGGING_FACE, LAYERS_5, timm_backbone!("model.backbone.model.")],
            Self::Transformers5Resnet => [HUGGING_FACE, LAYERS_5, resnet_backbone!("model.backbone.model.")],
        };
        tables.into_iter().flatten()
    }
}

/// One line of a table.
struct Rule {
    ours: &'static str,
    theirs: &'static str,
    third: Option<usize>,
}

const fn same(name: &'static str) -> Rule {
    pair(name, name)
}

const fn pair(ours: &'static str, theirs: &'static str) -> Rule {
    Rule { ours, theirs, third: None }
}

const fn packed(ours: &'static str, theirs: &'static str, third: usize) -> Rule {
    Rule { ours, theirs, third: Some(third) }
}

const PACKED: &[Rule] = &[
    packed("transformer.?.layers.#.?.q_proj.weight", "transformer.?.layers.#.?.in_proj_weight", 0),
    packed("transformer.?.layers.#.?.k_proj.weight", "transformer.?.layers.#.?.in_proj_weight", 1),
    packed("transformer.?.layers.#.?.v_proj.weight", "transformer.?.layers.#.?.in_proj_weight", 2),
    packed("transformer.?.layers.#.?.q_proj.bias", "transformer.?.layers.#.?.in_proj_bias", 0),
    packed("transformer.?.layers.#.?.k_proj.bias", "transformer.?.layers.#.?.in_proj_bias", 1),
    packed("transformer.?.layers.#.?.v_proj.bias", "transformer.?.layers.#.?.in_proj_bias", 2),
];

const ORIGINAL: &[Rule] = &[
    same("backbone.0.body.*"),
    same("input_proj.*"),
    same("query_embed.weight"),
    same("class_embed.*"),
    same("bbox_embed.layers.#.*"),
    same("transformer.?.layers.#.?.out_proj.*"),
    same("transformer.?.layers.#.linear1.*"),
    same("transformer.?.layers.#.linear2.*"),
    same("transformer.?.layers.#.norm#.*"),
    same("transformer.decoder.norm.*"),
    // SMCA-DETR's.
    same("transformer.decoder.layers.#.point#.*"),
];

const TORCHVISION: &[Rule] = &[
    pair("backbone.0.body.conv1.weight", "conv1.weight"),
    pair("backbone.0.body.bn1.*", "bn1.*"),
    pair("backbone.0.body.layer#.#.*", "layer#.#.*"),
    pair("backbone.0.body.fc.*", "fc.*"),
    pair("backbone.0.body.features.#.*", "features.#.*"),
    pair("backbone.0.body.classifier.*", "classifier.*"),
];

const HUGGING_FACE: &[Rule] = &[
    pair("input_proj.*", "model.input_projection.*"),
    pair("query_embed.weight", "model.query_position_embeddings.weight"),
    pair("class_embed.*", "class_labels_classifier.*"),
    pair("bbox_embed.layers.#.*", "bbox_predictor.layers.#.*"),
    pair("transformer.?.layers.#.self_attn.q_proj.*", "model.?.layers.#.self_attn.q_proj.*"),
    pair("transformer.?.layers.#.self_attn.k_proj.*", "model.?.layers.#.self_attn.k_proj.*"),
    pair("transformer.?.layers.#.self_attn.v_proj.*", "model.?.layers.#.self_attn.v_proj.*"),
    pair("transformer.decoder.layers.#.multihead_attn.q_proj.*", "model.decoder.layers.#.encoder_attn.q_proj.*"),
    pair("transformer.decoder.layers.#.multihead_attn.k_proj.*", "model.decoder.layers.#.encoder_attn.k_proj.*"),
    pair("transformer.decoder.layers.#.multihead_attn.v_proj.*", "model.decoder.layers.#.encoder_attn.v_proj.*"),
    pair("transformer.?.layers.#.norm1.*", "model.?.layers.#.self_attn_layer_norm.*"),
    pair("transformer.encoder.layers.#.norm2.*", "model.encoder.layers.#.final_layer_norm.*"),
    pair("transformer.decoder.layers.#.norm2.*", "model.decoder.layers.#.encoder_attn_layer_norm.*"),
    pair("transformer.decoder.layers.#.norm3.*", "model.decoder.layers.#.final_layer_norm.*"),
    pair("transformer.decoder.norm.*", "model.decoder.layernorm.*"),
];

const LAYERS_4: &[Rule] = &[
    pair("transformer.?.layers.#.self_attn.out_proj.*", "model.?.layers.#.self_attn.out_proj.*"),
    pair("transformer.decoder.layers.#.multihead_attn.out_proj.*", "model.decoder.layers.#.encoder_attn.out_proj.*"),
    pair("transformer.?.layers.#.linear1.*", "model.?.layers.#.fc1.*"),
    pair("transformer.?.layers.#.linear2.*", "model.?.layers.#.fc2.*"),
];

const LAYERS_5: &[Rule] = &[
    pair("transformer.?.layers.#.self_attn.out_proj.*", "model.?.layers.#.self_attn.o_proj.*"),
    pair("transformer.decoder.layers.#.multihead_attn.out_proj.*", "model.decoder.layers.#.encoder_attn.o_proj.*"),
    pair("transformer.?.layers.#.linear1.*", "model.?.layers.#.mlp.fc1.*"),
    pair("transformer.?.layers.#.linear2.*", "model.?.layers.#.mlp.fc2.*"),
];

/// What a `#`, `@`, `?` or `*` matched.
enum Part<'a> {
    /// Counted from 0, whichever way it was written.
    Number(u32),
    Words(&'a str),
}

/// Matches a name against a pattern.
fn capture<'a>(pattern: &str, name: &'a str) -> Option<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    let mut rest = Some(name);
    for expected in pattern.split('.') {
        let text = rest?;
        if expected == "*" {
            parts.push(Part::Words(text));
            return (!text.is_empty()).then_some(parts);
        }
        let (word, after) = text.split_once('.').map_or((text, None), |(word, after)| (word, Some(after)));
        match expected.as_bytes().last() {
            Some(b'?') => parts.push(Part::Words(word)),
            Some(b'#') => parts.push(Part::Number(number(word.strip_prefix(&expected[..expected.len() - 1])?)?)),
            Some(b'@') => parts.push(Part::Number(number(word.strip_prefix(&expected[..expected.len() - 1])?)?.checked_sub(1)?)),
            _ if word == expected => {}
            _ => return None,
        }
        rest = after;
    }
    rest.is_none().then_some(parts)
}

/// A number as the sources write it: no sign, no leading zero, or it would not come back as it was.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

/// Fills a pattern with what another one captured.
fn render(pattern: &str, parts: &[Part]) -> String {
    let mut parts = parts.iter();
    let mut name = String::with_capacity(pattern.len() + 8);
    for c in pattern.chars() {
        if !matches!(c, '#' | '@' | '?' | '*') {
            name.push(c);
            continue;
        }
        match parts.next() {
            Some(Part::Number(n)) => name.push_str(&(n + u32::from(c == '@')).to_string()),
            Some(Part::Words(words)) => name.push_str(words),
            None => panic!("`{pattern}` has more places than its pair"),
        }
    }
    name
}
