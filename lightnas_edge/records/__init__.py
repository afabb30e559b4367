"""Every file that crosses a module, as a checked type. JSON Schemas of them: docs/schemas."""
