"""The Python client: submit tasks and a graph, wait, read output, and ask why something waits.

    SWARMD_URL=http://127.0.0.1:8710 python examples/client.py

`swarmd.client` is async (trio). All its calls are typed; `submit` sends a request id of its own, so that a call
whose answer was lost is repeated without running anything twice.
"""

import trio

from swarmd.client import GraphRequest, array, open_client, task


async def main() -> None:
    async with open_client() as client:  # SWARMD_URL, SWARMD_TOKEN_FILE
        ids = await client.submit(
            [task(argv=["sh", "-c", "echo number $SWARMD_INDEX"], array=array(first=1, last=3))]
        )
        for done in await client.wait(ids, timeout_s=60):
            output = b"".join([piece async for piece in client.output(done.id)])
            print(done.state, done.exit_code, output.decode().strip())

        graph = await client.submit_graph(
            GraphRequest(
                name="two steps",
                tasks=[
                    task(key="first", argv=["echo", "first"]),
                    task(key="second", argv=["echo", "second"], after=["first"]),
                ],
            )
        )
        done = await client.wait(graph.ids, timeout_s=60)
        print("the graph:", ", ".join(sorted(item.state for item in done)))

        [waits] = await client.submit([task(argv=["true"], dimensions={"gpu": ["h200"]})])
        print((await client.explain(waits)).reason)
        await client.cancel([waits], reason="only an example")


if __name__ == "__main__":
    trio.run(main)
