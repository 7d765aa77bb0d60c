"""What the tiny model knows about Baton: one `Topic` per thing a newcomer asks.

The text is the product's own description of itself, so a change of the product that makes a line
here false must change the line, and the weights with the next training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing to ask about. `term` fits "What is ...?"; "" when only `asks` make sense."""

    term: str
    answer: str
    more: str
    """The answer to "Tell me more"."""
    asks: tuple[str, ...] = ()
    """Whole questions, beside those made from the term."""


TOPICS: tuple[Topic, ...] = (
    Topic(
        "Baton",
        "Baton serves large language models on Kubernetes. It runs prefill and decode in separate pods and "
        "hands the KV cache over from one to the other.",
        "The hand-over costs little more than a memory copy, so splitting the two phases pays.",
        ("What does Baton do?", "What is this project?", "What is Baton for?", "What are you part of?"),
    ),
    Topic(
        "",
        "The router sends your request to a decode pod. The decode pod reserves pages and asks a prefill pod "
        "to read the prompt. The prefill pod writes the KV cache into those pages, and the decode pod writes "
        "the answer, token by token.",
        "The router relays the answer to you as it is written.",
        ("How does Baton work?", "How do you work?", "What happens to a request?",
         "What is the path of a request?", "How is a request served?"),
    ),
    Topic(
        "a prefill pod",
        "A prefill pod reads the prompt. It computes the KV cache and pushes the finished pages to a decode "
        "pod.",
        "It also samples the first token, so that the answer starts before the last page has landed.",
        ("What does a prefill pod do?", "What is the prefill pod for?"),
    ),
    Topic(
        "a decode pod",
        "A decode pod writes the answer. It owns the request, takes in the KV cache and makes one token "
        "after "
        "another.",
        "It runs many requests in one batch, and its decode loop never waits for a transfer.",
        ("What does a decode pod do?", "What is the decode pod for?", "Who owns the request?"),
    ),
    Topic(
        "the router",
        "The router is the only part that clients talk to. It makes tokens of the prompt, picks a decode "
        "pod and "
        "a prefill pod, and relays the answer.",
        "It decides from memory where a request goes, and it can run in many replicas.",
        ("What does the router do?", "Who picks the pods?", "Where does a client connect?"),
    ),
    Topic(
        "a page",
        "A page is a run of memory that holds the keys and values of 16 tokens, for every layer.",
        "A page lies in one piece, so one descriptor is enough to send it.",
        ("How many tokens are in a page?", "How large is a page?", "What is in a page?"),
    ),
    Topic(
        "the pool",
        "The pool is the memory of a pod for the KV cache. It is cut into pages of one size.",
        "Pages that nobody uses any more keep their content, until a new request needs the room.",
        ("Where are the pages?", "What is the page pool?"),
    ),
    Topic(
        "the KV cache",
        "The KV cache holds the keys and values of all tokens that the model has read, so that it need not "
        "read "
        "them again.",
        "In Baton it is the thing that is handed over, like the baton in a relay race.",
        ("What is KV?", "Why is there a cache?"),
    ),
    Topic(
        "the hand-over",
        "In the hand-over the prefill pod writes the pages of the KV cache straight into the memory of the "
        "decode pod, while it still computes the next ones.",
        "For 2048 tokens of an 8B model over NVLink it takes about one and a half milliseconds.",
        ("How does the hand-over work?", "How is the KV cache handed over?", "What is handed over?",
         "How do the pages get to the decode pod?"),
    ),
    Topic(
        "",
        "The hand-over takes about one and a half milliseconds for a prompt of 2048 tokens, when the pods "
        "share NVLink.",
        "The cost grows with the number of pages, and pages that are already there are not sent.",
        ("How fast is the hand-over?", "How long does the hand-over take?", "Is the hand-over fast?"),
    ),
    Topic(
        "prefill",
        "Prefill is the first phase of a request: the model reads the whole prompt at once.",
        "It is bound by arithmetic, while decode is bound by memory.",
        ("What is the first phase?",),
    ),
    Topic(
        "decode",
        "Decode is the second phase of a request: the model writes the answer, one token at a time.",
        "It is bound by memory, so many requests run in one batch.",
        ("What is the second phase?",),
    ),
    Topic(
        "",
        "Prefill needs arithmetic and decode needs memory. In separate pods a long prompt never stalls the "
        "answers "
        "of others, and each side scales by itself.",
        "The price is the hand-over, and Baton makes it small.",
        ("Why split prefill and decode?", "Why are prefill and decode in separate pods?",
         "Why two kinds of pods?", "What is disaggregation?", "Why disaggregate?"),
    ),
    Topic(
        "",
        "Use kubectl scale, or let an autoscaler do it. Add prefill pods for long prompts and decode pods "
        "for long "
        "answers. No request is lost.",
        "New pods announce themselves, and pods that leave finish their work first.",
        ("How do I scale?", "How do I scale Baton?", "How can I add more pods?", "How do I add a pod?",
         "Can Baton scale?"),
    ),
    Topic(
        "",
        "A pod that stops takes no new work. It finishes or hands over what it has, and then it exits.",
        "So rolling updates lose no request.",
        ("What happens when a pod stops?", "What is draining?", "Can I update without losing requests?",
         "What happens when I scale down?"),
    ),
    Topic(
        "",
        "The router knows which tokens you already have and continues the request on another pod. You see a "
        "pause "
        "and no error.",
        "No token is lost and no token comes twice.",
        ("What happens when a decode pod dies?", "What if a pod crashes?", "What happens if a pod dies?",
         "Is Baton fault tolerant?"),
    ),
    Topic(
        "a prefix",
        "A prefix is the beginning of a prompt. When its pages are already in the pool, they are not "
        "computed again.",
        "A radix tree finds the longest known prefix.",
        ("What is the prefix cache?", "How does prefix caching work?", "Why is the second question faster?"),
    ),
    Topic(
        "the radix tree",
        "The radix tree of a pod knows which prefixes lie in its pool, and in which pages.",
        "A prefix enters the tree only when its pages are complete.",
        ("How does Baton find a prefix?",),
    ),
    Topic(
        "a token",
        "A token is a piece of text, often a word or a part of a word. A model reads and writes tokens.",
        "I know about fifteen hundred different tokens.",
        ("What are tokens?",),
    ),
    Topic(
        "a lease",
        "A lease is a note in Redis that says a pod is alive. The pod renews it every second, and after "
        "three "
        "seconds of silence it expires.",
        "It also says where the pod is and how busy it is.",
        ("How does Baton know that a pod is alive?",),
    ),
    Topic(
        "Redis",
        "Redis holds what the cluster knows: which pods are alive and which prefixes they hold.",
        "When Redis is gone, the routers go on with what they know.",
        ("Why does Baton need Redis?", "What is Redis for?", "What happens when Redis is down?"),
    ),
    Topic(
        "NIXL",
        "NIXL is the library that moves pages from one pod to another, over NVLink, RDMA or plain network.",
        "Baton measures each path and says loudly when it is slow.",
        ("What moves the pages?", "Which library moves the KV cache?"),
    ),
    Topic(
        "Kubernetes",
        "Kubernetes runs containers on many machines. Baton uses it to start its pods and to find them.",
        "Baton also runs without it, on a laptop.",
        ("Does Baton need Kubernetes?",),
    ),
    Topic(
        "a pod",
        "A pod is the smallest thing that Kubernetes runs. Each part of Baton runs in pods of its own.",
        "There are router pods, prefill pods and decode pods.",
        ("Which pods are there?", "What kinds of pods are there?"),
    ),
    Topic(
        "a GPU",
        "A GPU is a chip that does the arithmetic of a model very fast.",
        "Each prefill pod and each decode pod has its own.",
        (),
    ),
    Topic(
        "",
        "No. Baton runs on a CPU too, with the same scheduler, pages and hand-over. That is how I run here, "
        "perhaps.",
        "A GPU is only needed for large models.",
        ("Do I need a GPU?", "Does Baton need a GPU?", "Can Baton run on a laptop?", "Does it run on a CPU?"),
    ),
    Topic(
        "a batch",
        "A batch is the set of requests that run together in one step of the engine.",
        "Requests join and leave at every step.",
        ("What is continuous batching?",),
    ),
    Topic(
        "a unified pod",
        "A unified pod does prefill and decode by itself. It is a complete server.",
        "It is the simplest way to start.",
        ("What is unified mode?", "Can one pod do both?"),
    ),
    Topic(
        "tensor parallelism",
        "Tensor parallelism splits a model over several GPUs. Each rank holds some of the heads.",
        "Prefill and decode pods may be split differently.",
        ("What is TP?", "What is a rank?"),
    ),
    Topic(
        "time to first token",
        "Time to first token is how long you wait until the answer starts. It is the work of the prefill "
        "pod.",
        "Known prefixes make it shorter.",
        ("What is TTFT?",),
    ),
    Topic(
        "",
        "Type make run. It starts the pods on your machine, and then port 8000 of localhost answers.",
        "The command baton up does the same, with choices.",
        ("How do I start Baton?", "How do I run Baton?", "How do I install Baton?", "How do I try Baton?",
         "How do I get started?"),
    ),
    Topic(
        "a fence",
        "A fence keeps the pages that a lost pod might still write. Nobody gets them before it is known to "
        "be done.",
        "So a late write never lands in the pages of another request.",
        ("What is fencing?", "What is a fenced page?"),
    ),
    Topic(
        "",
        "Baton speaks the OpenAI API. Point your client at the router and use chat completions as usual.",
        "Streaming works too.",
        ("Which API does Baton have?", "How do I talk to Baton?", "Does Baton speak the OpenAI API?",
         "How do I send a request?"),
    ),
    Topic(
        "",
        "Baton serves models of the Hugging Face format, such as Qwen3 and Llama. And me.",
        "I use the Qwen3 architecture myself.",
        ("Which models does Baton serve?", "What models can I use?", "Can I serve my own model?"),
    ),
    Topic(
        "",
        "It is named after the baton of a relay race. One runner carries it and hands it to the next.",
        "Here the runners are pods and the baton is the KV cache.",
        ("Why is it called Baton?", "Where does the name come from?", "Why the name Baton?"),
    ),
)  # fmt: skip
