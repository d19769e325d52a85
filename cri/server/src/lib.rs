//! windlass-cri
