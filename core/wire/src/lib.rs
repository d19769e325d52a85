//! windlass-wire
