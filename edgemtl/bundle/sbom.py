"""``sbom.cdx.json``: the bill of materials in CycloneDX, with the network as a component."""

from __future__ import annotations

import json
import uuid
from importlib.metadata import PackageNotFoundError, metadata, version

from edgemtl.backends import registry

#: what has a say in the bytes of a bundle
BUILD_PACKAGES = ("edgemtl", "numpy", "onnx", "onnxruntime", "onnxslim", "openvino", "torch")


def tool_versions() -> dict[str, str]:
    """Versions of the installed packages that have a say in a bundle's bytes."""
    found = {}
    for name in BUILD_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def package_licence(name: str) -> tuple[str, bool] | None:
    """What an installed package's metadata says about its licence, in its own words.

    Returns:
        The text, and whether it is an SPDX expression; None when nothing is said.
    """
    try:
        data = metadata(name)
    except PackageNotFoundError:
        return None
    for key in ("License-Expression", "License"):
        text = data[key].strip() if key in data else ""
        if text and "\n" not in text:
            return text, key == "License-Expression"
    for classifier in data.get_all("Classifier") or []:
        if classifier.startswith("License :: "):
            return str(classifier).rsplit(" :: ", 1)[-1], False
    return None


def sbom_bytes(
    name: str, backend: str, onnx_sha256: str, source_sha256: str, licence_note: str
) -> bytes:
    """The bill of materials of a bundle.

    Args:
        name: of the bundle.
        backend: whose runtime the device needs.
        onnx_sha256: hash of ``model.onnx``.
        source_sha256: hash of the weights the run started from.
        licence_note: what is known about the checkpoint's licence; empty when nothing is.

    Returns:
        CycloneDX 1.6 JSON without a time and with a serial number derived from the content, so that
        equal bundles get equal bytes.
    """
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.output.json import JsonV1Dot6

    def package(distribution: str) -> Component:
        found = package_licence(distribution)
        licences: list[DisjunctiveLicense | LicenseExpression] = []
        if found is not None:
            text, is_expression = found
            expression = LicenseExpression(value=text) if is_expression else None
            licences = [expression or DisjunctiveLicense(name=text)]
        return Component(
            name=distribution,
            type=ComponentType.LIBRARY,
            version=tool_versions().get(distribution),
            bom_ref=f"package:{distribution}",
            licenses=licences,
        )

    def sha256(content: str) -> HashType:
        return HashType(alg=HashAlgorithm.SHA_256, content=content)

    model = Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[sha256(onnx_sha256)],
        licenses=[DisjunctiveLicense(name=licence_note)] if licence_note else None,
        properties=[Property(name="edgemtl:source_sha256", value=source_sha256)],
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{name}:{backend}:{onnx_sha256}"))
    bom.metadata.component = model
    own = package("edgemtl")
    needed = [package(p) for p in registry.get(backend).capabilities.packages]
    for component in (own, *needed):
        bom.components.add(component)
        bom.register_dependency(component)
    bom.register_dependency(model, [own, *needed])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
