//! Which keys were written since a moment: for who looked at all records then, and acts on what it saw later.

use std::collections::BTreeSet;

/// How many keys are kept; with more, who asks has to look at all records again.
const ROOM: usize = 1 << 16;

/// What one watcher is told. It belongs to the writer thread.
#[derive(Debug, Default)]
pub(super) enum Changes {
    /// Nobody asks.
    #[default]
    Off,
    /// The keys so far.
    Keys(BTreeSet<Vec<u8>>),
    /// There were more than are kept.
    Lost,
}

impl Changes {
    /// Keeps keys from now on, instead of those kept so far.
    pub(super) fn begin(&mut self) {
        *self = Self::Keys(BTreeSet::new());
    }

    /// Keeps no more.
    pub(super) fn end(&mut self) {
        *self = Self::Off;
    }

    /// Takes note of keys that are about to be written.
    pub(super) fn note<'a>(&mut self, written: impl IntoIterator<Item = &'a Vec<u8>>) {
        let Self::Keys(keys) = self else { return };
        keys.extend(written.into_iter().cloned());
        if keys.len() > ROOM {
            *self = Self::Lost;
        }
    }

    /// The keys since the last call; `None` where they are not known.
    pub(super) fn take(&mut self) -> Option<BTreeSet<Vec<u8>>> {
        match self {
            Self::Keys(keys) => Some(std::mem::take(keys)),
            Self::Off | Self::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_while_somebody_asks_and_up_to_a_bound() {
        let mut changes = Changes::default();
        let key = vec![1];
        changes.note([&key]);
        assert!(changes.take().is_none());
        changes.begin();
        changes.note([&key, &key]);
        assert_eq!(changes.take().unwrap().len(), 1);
        assert_eq!(changes.take().unwrap().len(), 0);
        let many: Vec<Vec<u8>> = (0..=ROOM as u32).map(|number| number.to_be_bytes().to_vec()).collect();
        changes.note(&many);
        assert!(changes.take().is_none());
        changes.begin();
        assert!(changes.take().is_some());
        changes.end();
        assert!(changes.take().is_none());
    }
}
