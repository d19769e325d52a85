//! Environment variables of any bytes in a specification, which is JSON and knows only text.
//!
//! A value that is no UTF-8 stands there as a zero byte and its bytes in hexadecimal digits. No variable can hold a zero
//! byte, so such an entry means nothing else, and who does not know it refuses it instead of passing on something wrong.

/// The mark of a value that is written in digits.
const MARK: char = '\0';

/// A variable as an entry of a specification: `NAME=value`.
pub fn encode(name: &str, value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => format!("{name}={text}"),
        Err(_) => format!("{name}={MARK}{}", hex::encode(value)),
    }
}

/// The bytes of a value as [`encode`] wrote it after the `=`.
///
/// # Errors
/// Nothing where it has the mark and no digits after it, or a zero byte elsewhere.
pub fn decode(value: &str) -> Option<Vec<u8>> {
    match value.strip_prefix(MARK) {
        Some(digits) => hex::decode(digits).ok(),
        None => (!value.contains('\0')).then(|| value.as_bytes().to_vec()),
    }
}

/// True for an entry whose value only our own runtime understands.
pub fn is_encoded(entry: &str) -> bool {
    entry.split_once('=').is_some_and(|(_, value)| value.starts_with(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_comes_back() {
        for value in [&b""[..], b"plain", "päckchen".as_bytes(), b"a=b", b"\xff\xfe", b"x\x80=\n"] {
            let entry = encode("NAME", value);
            let (name, text) = entry.split_once('=').unwrap();
            assert_eq!((name, decode(text).as_deref()), ("NAME", Some(value)));
            assert_eq!(is_encoded(&entry), std::str::from_utf8(value).is_err());
        }
    }

    #[test]
    fn what_nobody_encoded_is_refused() {
        for value in ["\0xyz", "\0abc", "a\0", "a\0ff"] {
            assert_eq!(decode(value), None, "{value:?}");
        }
    }
}
