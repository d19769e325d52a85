//! windlass-test-e2e
