//! Typed tables over one ordered key space.
//!
//! A stored key is the table's tag byte followed by the key's components. Components keep their order as bytes: text is
//! ended by `00 00` (a zero inside is written `00 ff`), numbers are big-endian, digests are their 32 bytes. So the
//! components of a key, from the left, are also the prefix of a range: all of a namespace, all of a lease.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use windlass_model::{Digest, Error, Id, Kind, LeaseId, Namespace, Result};

/// A table whose keys are `K` and whose values are `V`, kept as JSON.
pub struct Table<K, V> {
    tag: u8,
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

/// A component of a key, or several in a tuple.
pub trait Key: Sized {
    /// Appends the bytes, in an order-preserving form that tells where it ends.
    fn encode(&self, out: &mut Vec<u8>);
    /// Takes the component off the front of `input`.
    fn decode(input: &mut &[u8]) -> Result<Self>;
}

/// Gets each pair of a range, and tells whether it wants more.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool>;

/// What records can be read from: the committed state ([`super::View`]) or a transaction ([`super::Tx`]).
pub trait Reader {
    /// The value stored under exactly these bytes.
    fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// All pairs whose key starts with `prefix`, in the order of keys, until `each` answers false.
    fn range(&self, prefix: &[u8], each: Each<'_>) -> Result<()>;

    /// The record under `key`, or `None`.
    fn find<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>> {
        self.bytes(&table.key(key))?.map(|bytes| table.value(&bytes)).transpose()
    }

    /// True where there is a record under `key`.
    fn has<K: Key, V>(&self, table: &Table<K, V>, key: &K) -> Result<bool> {
        Ok(self.bytes(&table.key(key))?.is_some())
    }

    /// All records whose key starts with the components of `prefix` (`&()` for the whole table), in order.
    fn scan<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, prefix: &impl Key) -> Result<Vec<(K, V)>> {
        let mut found = Vec::new();
        self.each(table, prefix, &mut |key, value| {
            found.push((key, value));
            Ok(())
        })?;
        Ok(found)
    }

    /// As [`Reader::scan`], one after the other: for tables that need not be in memory as a whole.
    fn each<K: Key, V: DeserializeOwned>(
        &self,
        table: &Table<K, V>,
        prefix: &impl Key,
        visit: &mut dyn FnMut(K, V) -> Result<()>,
    ) -> Result<()> {
        self.range(&table.key_of(prefix), &mut |key, value| {
            visit(table.decode_key(key)?, table.value(value)?)?;
            Ok(true)
        })
    }

    /// The keys of all records whose key starts with the components of `prefix`, in order.
    fn keys<K: Key, V>(&self, table: &Table<K, V>, prefix: &impl Key) -> Result<Vec<K>> {
        let mut found = Vec::new();
        self.range(&table.key_of(prefix), &mut |key, _| {
            found.push(table.decode_key(key)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// The first key that starts with the components of `prefix`, or `None`: whether there is anything at all.
    fn first<K: Key, V>(&self, table: &Table<K, V>, prefix: &impl Key) -> Result<Option<K>> {
        let mut found = None;
        self.range(&table.key_of(prefix), &mut |key, _| {
            found = Some(table.decode_key(key)?);
            Ok(false)
        })?;
        Ok(found)
    }
}

impl<K, V> Table<K, V> {
    /// A table; `tag` is unique in the schema and never given to another table again.
    pub const fn new(tag: u8, name: &'static str) -> Self {
        Self { tag, name, types: PhantomData }
    }

    /// The name, for messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn key_of(&self, components: &impl Key) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(self.tag);
        components.encode(&mut bytes);
        bytes
    }
}

impl<K: Key, V> Table<K, V> {
    pub(super) fn key(&self, key: &K) -> Vec<u8> {
        self.key_of(key)
    }

    /// The key that these stored bytes are, if they are one of this table.
    pub(crate) fn key_from(&self, bytes: &[u8]) -> Option<K> {
        if bytes.first() == Some(&self.tag) { self.decode_key(bytes).ok() } else { None }
    }

    pub(super) fn decode_key(&self, mut bytes: &[u8]) -> Result<K> {
        let wrong = || Error::data_loss(format!("a key of table {} is damaged", self.name));
        bytes = bytes.get(1..).ok_or_else(wrong)?;
        let key = K::decode(&mut bytes).map_err(|_| wrong())?;
        if bytes.is_empty() { Ok(key) } else { Err(wrong()) }
    }
}

impl<K, V: DeserializeOwned> Table<K, V> {
    pub(super) fn value(&self, bytes: &[u8]) -> Result<V> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::with_source(Kind::DataLoss, format!("a record of table {} cannot be read", self.name), error)
        })
    }
}

impl<K, V: Serialize> Table<K, V> {
    pub(super) fn bytes(&self, value: &V) -> Result<Vec<u8>> {
        serde_json::to_vec(value).map_err(|error| {
            Error::with_source(Kind::Internal, format!("a record for table {} cannot be written", self.name), error)
        })
    }
}

fn damaged() -> Error {
    Error::data_loss("damaged key")
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend([0, 0]);
}

fn decode_text(input: &mut &[u8]) -> Result<String> {
    let mut text = Vec::new();
    loop {
        match *input {
            [0, 0, rest @ ..] => {
                *input = rest;
                return String::from_utf8(text).map_err(|_| damaged());
            }
            [0, 0xff, rest @ ..] => {
                text.push(0);
                *input = rest;
            }
            [0, ..] | [] => return Err(damaged()),
            [byte, rest @ ..] => {
                text.push(*byte);
                *input = rest;
            }
        }
    }
}

impl Key for () {
    fn encode(&self, _out: &mut Vec<u8>) {}
    fn decode(_input: &mut &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_text(self, out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self> {
        decode_text(input)
    }
}

macro_rules! name_key {
    ($($name:ident)+) => {$(
        impl Key for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_text(self.as_str(), out);
            }
            fn decode(input: &mut &[u8]) -> Result<Self> {
                decode_text(input)?.parse()
            }
        }
    )+};
}

name_key!(Namespace Id LeaseId);

impl Key for Digest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.as_bytes());
    }
    fn decode(input: &mut &[u8]) -> Result<Self> {
        let (bytes, rest) = input.split_first_chunk::<32>().ok_or_else(damaged)?;
        *input = rest;
        Ok(Self::from_bytes(*bytes))
    }
}

impl Key for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }
    fn decode(input: &mut &[u8]) -> Result<Self> {
        let (bytes, rest) = input.split_first_chunk::<8>().ok_or_else(damaged)?;
        *input = rest;
        Ok(Self::from_be_bytes(*bytes))
    }
}

macro_rules! tuple_key {
    ($($name:ident)+) => {
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[allow(non_snake_case)]
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.encode(out);)+
            }
            fn decode(input: &mut &[u8]) -> Result<Self> {
                Ok(($($name::decode(input)?,)+))
            }
        }
    };
}

tuple_key!(A B);
tuple_key!(A B C);
tuple_key!(A B C D);

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(key: &impl Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        bytes
    }

    #[test]
    fn keys_round_trip_and_keep_their_order() {
        let texts = ["", "\0", "\0a", "a", "a\0b", "a.b", "ab", "b", "é"];
        for pair in texts.windows(2) {
            let (low, high) = (encoded(&pair[0].to_owned()), encoded(&pair[1].to_owned()));
            assert!(low < high, "{pair:?}");
        }
        for text in texts {
            let key = (text.to_owned(), 7_u64, Digest::of(text.as_bytes()), "z".to_owned());
            let bytes = encoded(&key);
            assert_eq!(<(String, u64, Digest, String)>::decode(&mut bytes.as_slice()).unwrap(), key);
        }
    }

    #[test]
    fn the_prefix_of_one_namespace_is_not_that_of_a_longer_name() {
        let table: Table<(Namespace, String), ()> = Table::new(9, "test");
        let (short, long): (Namespace, Namespace) = ("k8s".parse().unwrap(), "k8s.io".parse().unwrap());
        assert!(!table.key(&(long, "x".into())).starts_with(&table.key_of(&short)));
    }

    #[test]
    fn damaged_keys_are_refused() {
        let table: Table<(String, u64), ()> = Table::new(9, "test");
        let good = table.key(&("a".into(), 1));
        assert!(table.decode_key(&good).is_ok());
        for cut in 0..good.len() {
            assert_eq!(table.decode_key(&good[..cut]).unwrap_err().kind(), Kind::DataLoss);
        }
        assert!(table.decode_key(&[good, vec![0]].concat()).is_err());
    }
}
