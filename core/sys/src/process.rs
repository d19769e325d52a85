//! Processes by handle.
