"""HTTP services: application factory, middleware, admission control, uploads, micro-batching."""
