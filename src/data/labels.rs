//! Names of classes.

use std::borrow::Cow;
use std::sync::LazyLock;

/// COCO's 91 category ids, 0 to 90. Eleven of them name no class and are `N/A`: 0, and ten that COCO never used.
///
/// This is also the order of the outputs of a DETR that was trained on COCO; the output after them is "no object".
pub fn coco91() -> &'static [&'static str] {
    static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| include_str!("../../assets/labels/coco91.txt").lines().collect());
    &NAMES
}

/// ImageNet's 1000 classes, in the order of the outputs of a classifier.
pub fn imagenet1000() -> &'static [&'static str] {
    static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| include_str!("../../assets/labels/imagenet1000.txt").lines().collect());
    &NAMES
}

/// The name of class `id`, or `class 17` where the list has none.
pub fn name<'a>(names: &[&'a str], id: usize) -> Cow<'a, str> {
    match names.get(id) {
        Some(&name) if name != "N/A" => name.into(),
        _ => format!("class {id}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coco_has_eighty_classes_among_ninety_one_ids() {
        let names = coco91();
        assert_eq!(names.len(), 91);
        assert_eq!(names.iter().filter(|&&n| n != "N/A").count(), 80);
        assert_eq!((names[1], names[17], names[44], names[90]), ("person", "cat", "bottle", "toothbrush"));
        assert_eq!((name(names, 12), name(names, 91)), ("class 12".into(), "class 91".into()));
    }

    #[test]
    fn imagenet_has_a_thousand_classes() {
        let names = imagenet1000();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| !n.is_empty()));
        assert_eq!((names[0], names[340], names[999]), ("tench", "zebra", "toilet tissue"));
    }
}
