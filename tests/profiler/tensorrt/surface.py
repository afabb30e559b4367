"""What a TensorRT module offers, read from the module itself. Run by record_api.py in a process of its own.

Runs under Python 3.6 and later. Prints JSON: {"version", "classes": {name: {...}}, "module": [names of all classes]}.
"""

import json
import re

# The classes that the backend touches, whole; of the others only the names.
CLASSES = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IProfiler",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
]


def surface(trt):
    """The surface of a module."""
    classes = {name: class_surface(getattr(trt, name)) for name in CLASSES if hasattr(trt, name)}
    names = sorted(name for name in dir(trt) if not name.startswith("_") and isinstance(getattr(trt, name), type))
    return {"version": trt.__version__, "classes": classes, "module": names}


def class_surface(cls):
    """Members of an enum with their values; else properties ("r", "w", "rw"), and the arguments of each method."""
    members = getattr(cls, "__members__", None)
    if members:
        return {"members": {name: int(value) for name, value in members.items()}}
    properties, methods = {}, {}
    for name in dir(cls):
        value = getattr(cls, name)
        if hasattr(object, name) and name != "__init__":
            continue
        if isinstance(value, property):
            properties[name] = ("r" if value.fget else "") + ("w" if value.fset else "")
        elif callable(value) and not isinstance(value, type):
            signatures = parse_signatures(name, value.__doc__ or "")
            if signatures:
                methods[name] = signatures
    bases = [base.__name__ for base in cls.__mro__[1:-1] if not base.__name__.startswith("pybind11")]
    return {"bases": bases, "properties": properties, "methods": methods}


def parse_signatures(name, doc):
    """The arguments of every overload in a docstring of pybind11, without self; an optional one ends with "?"."""
    signatures = []
    for text in re.findall(r"^(?:\d+\. )?" + re.escape(name) + r"\((.*)\)(?: -> .*)$", doc, re.MULTILINE):
        arguments = [argument.strip() for argument in split_outside_brackets(text) if argument.strip()]
        names = [re.split("[:=]", argument)[0].strip() + ("?" if "=" in argument else "") for argument in arguments]
        signatures.append([argument for argument in names if argument != "self"])
    return signatures


def split_outside_brackets(text):
    """Parts of a text between the commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[({<") - (letter in "])}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


if __name__ == "__main__":
    import tensorrt_bindings

    print(json.dumps(surface(tensorrt_bindings)))
