"""The operator: `plan`, `manifests` and `reconcile` decide, `controller` talks to Kubernetes."""
