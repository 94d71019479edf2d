//! Texts that many clients have in common, kept once.

use std::sync::Arc;

/// What clients say, or are, that most of their neighbours say as well.
#[derive(Debug, Default)]
pub(super) struct Interned {
    /// The address that they connected to.
    pub local_address: Latest<str>,
    /// Their user's name.
    pub user: Latest<[u8]>,
    /// CLIENT SETINFO LIB-NAME.
    pub library_name: Latest<[u8]>,
    /// CLIENT SETINFO LIB-VER.
    pub library_version: Latest<[u8]>,
}

/// The last text that was asked for: clients of one kind come one after the other, so that a table of all of them, which
/// would have to be swept, saves little more.
#[derive(Debug)]
pub(super) struct Latest<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Default for Latest<T>
where
    Arc<T>: Default,
{
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: ?Sized + PartialEq> Latest<T>
where
    for<'a> Arc<T>: From<&'a T>,
{
    /// The same text, in the memory of the last one if they are equal.
    pub(super) fn share(&mut self, text: &T) -> Arc<T> {
        if *self.0 != *text {
            self.0 = Arc::from(text);
        }
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_in_a_row_are_one() {
        let mut latest = Latest::<str>::default();
        let (first, second, other) = (latest.share("one"), latest.share("one"), latest.share("two"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((&*first, &*other), ("one", "two"));
    }
}
