"""What a person reads when everything runs; the one home of the SDK snippet."""

from launcher.environment import Settings

DEMO_PASSWORD = "ballast-demo"  # noqa: S105 - public by design; demo mode binds to loopback only
DEMO_OPERATORS = ("owner", "approver-one", "approver-two", "oncall", "exec", "legal", "auditor", "admin")
DEMO_TENANT_KEYS = (
    ("bk-demo-acme", "VIP, pinned to EU lanes"),
    ("bk-demo-globex", "standard"),
    ("bk-demo-initech", "free"),
    ("bk-demo-staff", "internal, first in every canary"),
)


def sdk_snippet(gateway_url: str) -> str:
    """Return a complete Python program that talks to the demo through the stock OpenAI SDK."""
    return f'''\
from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{gateway_url}/v1", api_key="bk-demo-acme")
question = [{{"role": "user", "content": "Where is my parcel?"}}]

# Plain
answer = client.chat.completions.create(model="chat", messages=question)
print(answer.choices[0].message.content)

# Streaming
for chunk in client.chat.completions.create(model="chat", messages=question, stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

# A prompt the console governs: the user decides between canary and control, and stays there
raw = client.chat.completions.with_raw_response.create(
    model="chat",
    messages=[],
    user="ada",
    extra_body={{"prompt": {{"id": "support-answer", "variables": {{"question": "Where is my parcel?"}}}}}},
)
print(raw.headers["ballast-prompt"], raw.headers["ballast-cohort"], raw.headers["ballast-lane"])
print(raw.parse().choices[0].message.content)
'''


def welcome(settings: Settings) -> str:
    """Return the closing words of a successful start."""
    lines = ["", f"Console   {settings.console_url}/", f"Gateway   {settings.local_gateway}/v1"]
    if settings.demo:
        lines += [
            "",
            f"Sign in as {', '.join(DEMO_OPERATORS)}; the password is {DEMO_PASSWORD}",
            "Tenant keys  " + ", ".join(f"{key} ({what})" for key, what in DEMO_TENANT_KEYS),
            "",
            "Call it from an application:",
            "",
            *(f"    {line}".rstrip() for line in sdk_snippet(settings.local_gateway).splitlines()),
        ]
    else:
        command = ".venv/bin/python -m launcher manage"
        lines += [
            "",
            "Demo mode is off. Once, for the first operator and the first approval policy:",
            f"    {command} create_admin --username you --email you@example.com",
            f"    {command} bootstrap_policy --actor you",
        ]
    lines += ["", f"Logs are in {settings.data_dir / 'logs'}. Ctrl-C stops everything."]
    return "\n".join(lines)
