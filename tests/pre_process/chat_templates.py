"""Templates in the manners of several model families, and random chats for them."""

import random
from typing import Any

from pre_process.tokenizer.chat import CHATML

BRACKETS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set start = 1 %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set start = 0 %}{% set system = '' %}{% endif %}"
    "{% for message in messages[start:] %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{% set first = system if loop.first else '' %}"
    "{{ '[INST] ' + first + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADERS = """{%- set ns = namespace(n=0) %}
{%- macro header(role) -%}
    <|start_header|>{{ role }}<|end_header|>{{ '\n\n' }}
{%- endmacro %}
{%- if tools is defined and tools %}
    {{- header('tools') + (tools | tojson(indent=2)) + '<|eot|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- continue %}
    {%- endif %}
    {%- set ns.n = ns.n + 1 %}
    {{- header(message.role) }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content | trim }}<|eot|>
        {%- endgeneration %}
    {%- else %}
        {{- message.content | trim ~ '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}
{#- the number of messages -#}
{{ ns.n }}
"""
TURNS = """<|START|>
{% for message in messages if message.content %}
  {% if loop.first %}{{ message.role | upper | replace('"', "'") }}{% else %}{{ message['role'].title() }}{% endif %}
: {{ message.content.split('</think>') | last }}{{ ['', '!'][loop.last] }} {{ '%03d' % loop.index }}
{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}"""

TEMPLATES = {"chatml": CHATML, "brackets": BRACKETS, "headers": HEADERS, "turns": TURNS}
SPECIALS = [
    "<|pad|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header|>",
    "<|end_header|>",
    "<|eot|>",
]
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"a": [1, 2.5, True, None], "b": "<&>'\""}}}]


def random_chat(rng: random.Random, texts: list[str]) -> list[dict[str, Any]]:
    """A system message now and then, then user and assistant in turns."""
    chat = [{"role": "system", "content": rng.choice(texts)}] if rng.random() < 0.5 else []
    for turn in range(rng.randint(1, 5)):
        chat.append({"role": ("user", "assistant")[turn % 2], "content": rng.choice(texts) or "?"})
    return chat
