//! windlass-cri-api
