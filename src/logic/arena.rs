//! An arena whose keys carry a generation: a key of something that is gone finds nothing, even when its place is taken.

use std::marker::PhantomData;

/// The key of a `T` in an [`Arena`].
pub struct Key<T> {
    index: u32,
    generation: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The place, unique among what is alive and below 2^31; reused after a removal.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// The place, and how often it was taken before.
    #[must_use]
    pub const fn parts(self) -> (u32, u32) {
        (self.index, self.generation)
    }

    /// The key with these [`Self::parts`].
    #[must_use]
    pub const fn from_parts((index, generation): (u32, u32)) -> Self {
        Self { index, generation, kind: PhantomData }
    }
}

/// An index and a bit beside it fit into 32 bits.
const VALUES_MAX: usize = 1 << 31;

// Derives would ask the same of `T`, which a key does not hold.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}
impl<T> Eq for Key<T> {}
impl<T> std::hash::Hash for Key<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}
impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}v{}", self.index, self.generation)
    }
}

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// Owns values and hands out keys.
pub struct Arena<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    /// The generation of a place's first value.
    first_generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), first_generation: 0 }
    }
}

impl<T> Arena<T> {
    /// Takes a value in.
    pub fn insert(&mut self, value: T) -> Key<T> {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.places.len() < VALUES_MAX, "an arena holds at most {VALUES_MAX} values");
            self.places.push(Place { generation: self.first_generation, value: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        Key { index, generation: place.generation, kind: PhantomData }
    }

    /// An empty arena in which no key of this one finds anything.
    #[must_use]
    pub fn successor(&self) -> Self {
        let newest = self.places.iter().map(|place| place.generation).max().unwrap_or(self.first_generation);
        Self { first_generation: newest.wrapping_add(1), ..Self::default() }
    }

    /// Gives a value back; its key finds nothing from now on.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let place = self.places.get_mut(key.index())?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// Looks a value up.
    #[must_use]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let place = self.places.get(key.index())?;
        if place.generation == key.generation { place.value.as_ref() } else { None }
    }

    /// Looks a value up to change it.
    #[must_use]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let place = self.places.get_mut(key.index())?;
        if place.generation == key.generation { place.value.as_mut() } else { None }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = Key { index: index as u32, generation: place.generation, kind: PhantomData };
            place.value.as_ref().map(|value| (key, value))
        })
    }

    /// The keys of all values, for loops that change the arena.
    #[must_use]
    pub fn keys(&self) -> Vec<Key<T>> {
        self.iter().map(|(key, _)| key).collect()
    }
}

/// Values beside those of an arena, found by the same keys without a hash.
pub struct SideTable<T, V> {
    places: Vec<Option<(Key<T>, V)>>,
}

impl<T, V> Default for SideTable<T, V> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<T, V> SideTable<T, V> {
    /// Puts a value beside that of `key`, in the place of what stood there.
    pub fn insert(&mut self, key: Key<T>, value: V) {
        if self.places.len() <= key.index() {
            self.places.resize_with(key.index() + 1, || None);
        }
        self.places[key.index()] = Some((key, value));
    }

    /// Looks a value up.
    #[must_use]
    pub fn get(&self, key: Key<T>) -> Option<&V> {
        match self.places.get(key.index()) {
            Some(Some((known, value))) if *known == key => Some(value),
            _ => None,
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: Key<T>) -> Option<V> {
        self.get(key)?;
        self.places[key.index()].take().map(|(_, value)| value)
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &V)> {
        self.places.iter().flatten().map(|(key, value)| (*key, value))
    }

    /// Takes everything out.
    pub fn take_all(&mut self) -> impl Iterator<Item = V> + use<T, V> {
        std::mem::take(&mut self.places).into_iter().flatten().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_table_tells_generations_apart() {
        let (mut arena, mut table) = (Arena::default(), SideTable::default());
        let first = arena.insert(());
        table.insert(first, "first");
        arena.remove(first);
        let second = arena.insert(());
        assert_eq!((table.get(first), table.get(second)), (Some(&"first"), None));
        table.insert(second, "second");
        assert_eq!((table.get(first), table.get(second)), (None, Some(&"second")));
        assert_eq!((table.remove(first), table.remove(second)), (None, Some("second")));
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn a_key_of_something_gone_finds_nothing() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!((arena.get(first), arena.get(second)), (None, Some(&"second")));
        assert_eq!((arena.remove(first), arena.len()), (None, 1));
        let mut successor = arena.successor();
        successor.insert("third");
        assert_eq!((successor.get(first), successor.get(second)), (None, None));
    }
}
