//! The classes of a data set: contiguous training labels, names, and the ids of the files.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The classes that a model knows. Position is the training label, `0..len`; stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Categories {
    names: Vec<String>,
    ids: Vec<i64>,
}

/// What a checkpoint says, before it is believed.
#[derive(Deserialize)]
struct Unchecked {
    names: Vec<String>,
    ids: Vec<i64>,
}

impl TryFrom<Unchecked> for Categories {
    type Error = Error;

    fn try_from(Unchecked { names, ids }: Unchecked) -> Result<Self> {
        if names.len() != ids.len() {
            return Err(Error::Config(format!("{} class names, but {} class ids", names.len(), ids.len())));
        }
        Self::new(ids.into_iter().zip(names))
    }
}

impl Categories {
    /// Classes by id and name; labels follow the ids in rising order, as pycocotools numbers them.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, or an id comes twice.
    pub fn new(entries: impl IntoIterator<Item = (i64, String)>) -> Result<Self> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|(id, _)| *id);
        if entries.is_empty() {
            return Err(Error::Config("a data set needs at least one class, found none".into()));
        }
        if let Some(pair) = entries.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Error::Config(format!("two classes have the id {}: `{}` and `{}`", pair[0].0, pair[0].1, pair[1].1)));
        }
        let (ids, names) = entries.into_iter().unzip();
        Ok(Self { names, ids })
    }

    /// Classes by name alone: label `i` has the id `i + 1`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none.
    pub fn from_names(names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        Self::new((1..).zip(names.into_iter().map(Into::into)))
    }

    /// The number of classes, K.
    #[expect(clippy::len_without_is_empty, reason = "there is at least one class")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Class names by label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Ids of the files by label, rising.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The label of an id of the files.
    pub fn label_of_id(&self, id: i64) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// The label of a name; the first where several classes have one name.
    pub fn label_of_name(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Categories {
        Categories::new([(44, "bottle".into()), (1, "person".into()), (17, "cat".into())]).unwrap()
    }

    #[test]
    fn labels_are_contiguous_in_the_order_of_the_ids() {
        let c = three();
        assert_eq!((c.len(), c.names(), c.ids()), (3, ["person", "cat", "bottle"].map(String::from).as_slice(), [1, 17, 44].as_slice()));
        assert_eq!(
            (c.label_of_id(17), c.label_of_id(2), c.label_of_name("bottle"), c.label_of_name("dog")),
            (Some(1), None, Some(2), None)
        );
    }

    #[test]
    fn a_checkpoint_carries_them_and_is_not_believed_blindly() {
        let text = serde_json::to_string(&three()).unwrap();
        assert_eq!(serde_json::from_str::<Categories>(&text).unwrap(), three());
        for wrong in [r#"{"names":["a"],"ids":[1,2]}"#, r#"{"names":[],"ids":[]}"#, r#"{"names":["a","b"],"ids":[1,1]}"#] {
            assert!(serde_json::from_str::<Categories>(wrong).is_err(), "{wrong}");
        }
    }
}
