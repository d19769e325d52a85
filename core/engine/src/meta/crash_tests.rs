//! The database after `kill -9`.
