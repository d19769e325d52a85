//! windlass-house
