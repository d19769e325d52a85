//! windlass-snapshotters
