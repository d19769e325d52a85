//! From the text of a filter to its selectors, by one pass from left to right.

use super::{LONGEST, Selector, Test, pattern};
use crate::{Error, Result};

/// The selectors of one filter, which is not empty.
pub(super) fn selectors(text: &str) -> Result<Vec<Selector>> {
    if text.len() > LONGEST {
        return Err(Error::invalid(format!("filter: it has {} bytes, more than {LONGEST}", text.len())));
    }
    let mut parser = Parser { text, at: 0 };
    let mut all = vec![parser.selector()?];
    loop {
        parser.skip_space();
        match parser.next() {
            None => return Ok(all),
            Some(',') => all.push(parser.selector()?),
            Some(_) => return Err(parser.wrong("expected a comma")),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// How many bytes are read.
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    /// The characters from here that are `wanted`.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let taken: String = self.rest().chars().take_while(|character| wanted(*character)).collect();
        self.at += taken.len();
        taken
    }

    fn wrong(&self, what: &str) -> Error {
        let start: String = self.text.chars().take(200).collect();
        Error::invalid(format!("filter {start:?}, byte {}: {what}", self.at))
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.next();
            path.push(self.field()?);
        }
        self.skip_space();
        let operator = self.take(|character| matches!(character, '=' | '!' | '~'));
        let test = match operator.as_str() {
            "" => Test::Present,
            "==" => Test::Equal(self.value(&['"'])?),
            "!=" => Test::NotEqual(self.value(&['"'])?),
            "~=" => Test::Matches(pattern(&self.value(&['"', '/', '|'])?)?),
            _ => return Err(self.wrong("the operators are ==, != and ~=")),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let name = self.take(|character| character == '_' || character.is_ascii_alphanumeric());
        if name.is_empty() { Err(self.wrong("expected the name of a field")) } else { Ok(name) }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some(quote) if quotes.contains(&quote) => self.quoted(),
            Some('"' | '/' | '|') => Err(self.wrong("this quote stands for regular expressions only")),
            _ => {
                let value = self.take(|character| character != ',' && !character.is_whitespace());
                if value.is_empty() { Err(self.wrong("expected a value")) } else { Ok(value) }
            }
        }
    }

    /// What stands between the quote here and the next one like it.
    fn quoted(&mut self) -> Result<String> {
        let quote = self.next().unwrap_or_default();
        let mut value = Vec::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.wrong("a quote is not closed")),
                Some(end) if end == quote => break,
                Some('\\') => self.escape(quote, &mut value)?,
                Some(plain) => value.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(value).map_err(|_| self.wrong("a quoted text is not UTF-8"))
    }

    /// What an escape of Go's string literals stands for.
    fn escape(&mut self, quote: char, value: &mut Vec<u8>) -> Result<()> {
        let plain = match self.next() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some(same) if same == quote => same as u8,
            Some(first @ '0'..='7') => {
                let number = (first.to_digit(8).unwrap_or_default() << 6) | self.digits(8, 2)?;
                u8::try_from(number).map_err(|_| self.wrong("an escape is above \\377"))?
            }
            Some('x') => self.digits(16, 2)? as u8,
            Some(long @ ('u' | 'U')) => {
                let number = self.digits(16, if long == 'u' { 4 } else { 8 })?;
                let character = char::from_u32(number).ok_or_else(|| self.wrong("an escape is no character"))?;
                value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.wrong("an escape that is not known")),
        };
        value.push(plain);
        Ok(())
    }

    /// The number that the next `count` digits write.
    fn digits(&mut self, base: u32, count: usize) -> Result<u32> {
        let mut number = 0;
        for _ in 0..count {
            let digit = self.next().and_then(|digit| digit.to_digit(base));
            number = number * base + digit.ok_or_else(|| self.wrong("an escape is cut short"))?;
        }
        Ok(number)
    }
}
