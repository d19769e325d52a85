//! Which levels are taken, and by how many.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// How many categories a policy has (`c0` to `c1023`).
const CATEGORIES: u32 = 1024;
/// How often two are drawn before they are looked for one after the other.
const DRAWS: usize = 64;

/// The levels that pods and containers hold.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<BTreeMap<String, usize>>);

impl Levels {
    /// A level with two categories that nobody holds, held from now on.
    pub(super) fn fresh(&self) -> String {
        let mut held = self.0.lock();
        let drawn = (0..DRAWS).filter_map(|_| drawn());
        let counted = (0..CATEGORIES).flat_map(|low| (low + 1..CATEGORIES).map(move |high| (low, high)));
        let mut levels = drawn.chain(counted).map(|(low, high)| format!("s0:c{low},c{high}"));
        // There are half a million; a node that has them all in use shares one.
        let level = levels.find(|level| !held.contains_key(level)).unwrap_or_else(|| "s0:c0,c1".into());
        *held.entry(level.clone()).or_default() += 1;
        level
    }

    /// Holds a level once more. One without categories keeps nobody apart and is not counted.
    pub(super) fn hold(&self, level: &str) {
        if level.contains(":c") {
            *self.0.lock().entry(level.to_owned()).or_default() += 1;
        }
    }

    /// Gives a level back.
    pub(super) fn free(&self, level: &str) {
        let mut held = self.0.lock();
        if let Some(count) = held.get_mut(level) {
            *count -= 1;
            if *count == 0 {
                held.remove(level);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_held(&self, level: &str) -> bool {
        self.0.lock().contains_key(level)
    }
}

/// Two different categories, the lower first; `None` where the same was drawn twice.
fn drawn() -> Option<(u32, u32)> {
    let bits = uuid::Uuid::new_v4().as_u128();
    // The lowest and the highest bits of such an id are random.
    let draw = |bits: u128| u32::try_from(bits % u128::from(CATEGORIES)).unwrap_or_default();
    let (one, other) = (draw(bits), draw(bits >> 96));
    (one != other).then(|| (one.min(other), one.max(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_level_is_given_twice() {
        let levels = Levels::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            assert!(seen.insert(levels.fresh()));
        }
        let one = seen.first().unwrap();
        levels.hold(one);
        levels.free(one);
        assert!(levels.is_held(one));
        levels.free(one);
        levels.free(one);
        assert!(!levels.is_held(one));
        levels.hold("s0");
        assert!(!levels.is_held("s0"));
    }
}
