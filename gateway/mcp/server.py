"""The MCP server. It offers tools, resources and prompts through the official SDK.

The same server object serves every protocol version and both transports. Above: `http.py` and `stdio.py`. Below: the
worker's toolbox. Importing this module takes about a second, so the modules above import it inside functions.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from gateway.http.routes.health import service_version
from gateway.mcp.greeting import INSTRUCTIONS, NAME
from gateway.mcp.prompts import NAMESPACE, PROMPTS, Prompt
from gateway.tools.memory_uris import TEMPLATE, parsed
from gateway.tools.toolbox import Tool, ready
from vector_memory.errors import InvalidInput, LimitExceeded, NotFound, ServiceError
from vector_memory.times import iso_time

if TYPE_CHECKING:
    from gateway.serving.worker import Worker

log = logging.getLogger(__name__)

_CRASHED = "Something went wrong inside the service; its log has the details."


def build(worker: "Worker") -> Server[Any]:
    """Return the MCP server of a worker. The worker may still be loading."""
    handlers = _Handlers(worker)
    return Server(
        NAME,
        version=service_version(),
        instructions=INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_resource_templates,
        on_read_resource=handlers.read_resource,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
    )


class _Handlers:
    """The handlers of the server's requests. A tool that fails answers with a sentence that the model can act on."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    async def list_tools(self, _ctx: object, _params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(tool) for tool in self._worker.toolbox.tools])

    async def call_tool(self, _ctx: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        toolbox = self._worker.toolbox
        try:
            toolbox.get(params.name)
        except NotFound as error:
            # The protocol reports an unknown tool as an error, and the failure of a known tool as a result.
            raise MCPError(types.INVALID_PARAMS, error.message) from error
        try:
            result = await toolbox.invoke(params.name, params.arguments or {})
        except ServiceError as error:
            _report(error, "tool.failed", params.name)
            return types.CallToolResult(content=[types.TextContent(type="text", text=error.message)], is_error=True)
        text = json.dumps(result, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=result)

    async def list_resources(self, _ctx: object, _params: object) -> types.ListResourcesResult:
        # There may be millions of memories, so none is listed. The template below reaches each of them.
        return types.ListResourcesResult(resources=[])

    async def list_resource_templates(self, _ctx: object, _params: object) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            name="memory",
            uri_template=TEMPLATE,
            description="The text of one memory; namespace and key are percent-encoded.",
            mime_type="text/plain",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(self, _ctx: object, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            namespace, key = parsed(uri)
            await ready(self._worker)
            memory = await asyncio.to_thread(self._worker.memories.get, key, namespace=namespace)
        except ServiceError as error:
            raise _protocol_error(error, "resource.failed", {"uri": uri}) from error
        about = {"metadata": memory.metadata, "updatedAt": iso_time(memory.updated_at_ms)}
        content = types.TextResourceContents(uri=uri, mime_type="text/plain", text=memory.content, _meta=about)
        return types.ReadResourceResult(contents=[content])

    async def list_prompts(self, _ctx: object, _params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[_prompt(prompt) for prompt in PROMPTS.values()])

    async def get_prompt(self, _ctx: object, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        prompt = PROMPTS.get(params.name)
        if prompt is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no such prompt; there are {', '.join(PROMPTS)}.")
        try:
            await ready(self._worker)
            text = await prompt.text(self._worker, params.arguments or {})
        except ServiceError as error:
            raise _protocol_error(error, "prompt.failed") from error
        except Exception as error:
            log.exception("prompt.crashed")
            raise MCPError(types.INTERNAL_ERROR, _CRASHED) from error
        message = types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
        return types.GetPromptResult(description=prompt.description, messages=[message])


def _protocol_error(error: ServiceError, event: str, data: dict[str, str] | None = None) -> MCPError:
    is_callers = isinstance(error, InvalidInput | NotFound | LimitExceeded)
    _report(error, event)
    return MCPError(types.INVALID_PARAMS if is_callers else types.INTERNAL_ERROR, error.message, data)


def _report(error: ServiceError, event: str, tool: str | None = None) -> None:
    # A caller's own mistake is of no interest to the operator.
    if not isinstance(error, InvalidInput | NotFound | LimitExceeded):
        log.warning(event, extra={"tool": tool, "code": error.code, "reason": error.message})


def _tool(tool: Tool[Any]) -> types.Tool:
    hints = tool.hints
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=None if tool.output is None else dict(tool.output),
        annotations=types.ToolAnnotations(
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=None if hints.read_only else hints.idempotent,  # it has no meaning for a read-only tool
            open_world_hint=hints.open_world,
        ),
    )


def _prompt(prompt: Prompt) -> types.Prompt:
    return types.Prompt(
        name=prompt.name,
        description=prompt.description,
        arguments=[
            types.PromptArgument(name=prompt.subject, description=prompt.about, required=True),
            types.PromptArgument(name=NAMESPACE, description="Default: default.", required=False),
        ],
    )
