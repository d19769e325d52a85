//! An image reference from a client; what is accepted reads back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<windlass_model::Reference>() {
        let full = reference.to_string();
        let again = full.parse::<windlass_model::Reference>().expect("the full form is a reference");
        assert_eq!(again.to_string(), full);
    }
});
