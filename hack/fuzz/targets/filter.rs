//! A filter from a client of the containerd API: parsed or refused, and asked about every kind of field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_model::filter::Filter;

fuzz_target!(|text: &str| {
    if let Ok(filter) = Filter::parse(&[text]) {
        filter.matches(|_| None);
        filter.matches(|path| Some(path.join(".").into()));
    }
});
