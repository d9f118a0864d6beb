"""The API described: as OpenAPI 3.1 for programs, and as one page without scripts for people."""

import re
from html import escape
from typing import Any

import msgspec

from common.routes import ROUTES, Access, Route
from common.wire import ErrorBody

_ERRORS = {
    "400": "not JSON",
    "401": "no key or an unknown one",
    "403": "another broker's order",
    "404": "not there",
    "405": "another method is expected",
    "408": "the request did not arrive in time",
    "409": "the client_order_id names another order",
    "413": "the body is larger than 16 KiB",
    "422": "a field or a parameter is wrong, unknown or there twice",
    "503": "overloaded; Retry-After says when to come again",
}


def describe(*, debug: bool) -> dict[str, Any]:
    """The OpenAPI document of the routes that are served."""
    routes = [route for route in ROUTES if debug or route.access is not Access.DEBUG]
    types = [kind for route in routes for kind in (route.body, route.reply) if kind]
    schemas = msgspec.json.schema_components(
        [*types, ErrorBody], ref_template="#/components/schemas/{name}"
    )[1]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mini Stock Exchange",
            "version": "1",
            "description": (
                "Money is integer cents. Ids are UUIDs that sort by time. A field or a parameter "
                "that is unknown or stands there twice is refused, except in what is for everyone."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"For: {route.access}.",
        "responses": {str(route.success): _content("success", route.reply)},
    }
    if route.replay:
        operation["responses"]["200"] = _content(route.replay, route.reply)
    for status, meaning in _ERRORS.items():
        operation["responses"][status] = _content(meaning, ErrorBody)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = _content("", route.body) | {"required": True}
    if route.access is not Access.EVERYONE:
        operation["security"] = [{"key": []}]
    return operation


def _content(meaning: str, kind: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"description": meaning} if meaning else {}
    if kind:
        schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
        content["content"] = {"application/json": {"schema": schema}}
    return content


def render_docs(document: dict[str, Any]) -> str:
    """The OpenAPI document as HTML."""
    info = document["info"]
    operations = "".join(
        _operation_html(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        _schema_html(name, schema) for name, schema in document["components"]["schemas"].items()
    )
    return _PAGE.format(
        title=escape(info["title"]),
        description=escape(info["description"]),
        operations=operations,
        schemas=schemas,
    )


def _operation_html(method: str, path: str, operation: dict[str, Any]) -> str:
    replies = ", ".join(
        f"{status} {_link(reply)}".rstrip()
        for status, reply in operation["responses"].items()
        if status.startswith("2")
    )
    query = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
    suffix = f"?{'&'.join(f'{name}=' for name in query)}" if query else ""
    cells = (
        f"<code>{method.upper()} {escape(path + suffix)}</code>",
        escape(operation["summary"]),
        escape(operation["description"].removeprefix("For: ").rstrip(".")),
        _link(operation.get("requestBody", {})),
        replies,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _link(content: dict[str, Any]) -> str:
    """The name of the schema of a body, linked to its table."""
    media = content.get("content", {}).get("application/json")
    name = media["schema"]["$ref"].rpartition("/")[2] if media else ""
    return f'<a href="#{name}">{name}</a>' if name else ""


def _schema_html(name: str, schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return f'<h3 id="{name}">{name}</h3><p>{escape(", ".join(schema.get("enum", [])))}</p>'
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_type_text(detail))}</td>"
        f"<td>{'required' if field in required else ''}</td>"
        f"<td>{escape(detail.get('description', ''))}</td></tr>\n"
        for field, detail in schema["properties"].items()
    )
    about = escape(schema.get("description", "").partition("\n\n")[0])
    return f'<h3 id="{name}">{name}</h3><p>{about}</p><table>{rows}</table>\n'


def _type_text(schema: dict[str, Any]) -> str:
    """A schema in a few words: ``integer 1 to 1000 or null``."""
    if "anyOf" in schema:
        return " or ".join(_type_text(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"array of {_type_text(schema['items'])}"
    words = [str(schema.get("format") or schema.get("type", "anything"))]
    for least, most, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
    ):
        if most in schema:
            words.append(f"{schema.get(least, 0)} to {schema[most]}{unit}")
    return " ".join(words)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ border-bottom: 1px solid #ccc; padding: .3rem .6rem .3rem 0; text-align: left;
  vertical-align: top }}
</style></head><body>
<h1>{title}</h1><p>{description} The same <a href="/openapi.json">for programs</a>.</p>
<p>Brokers and the admin send <code>Authorization: Bearer &lt;key&gt;</code>. Every error is
<code>{{"code": …, "detail": …}}</code>.</p>
<table><tr><th>request</th><th>what it does</th><th>for</th><th>body</th><th>reply</th></tr>
{operations}</table>
<h2>Bodies</h2>
{schemas}</body></html>
"""
