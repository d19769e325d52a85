//! windlass-sys
