"""Several users at once, each of whom asks an OpenAI-compatible server for one completion; run in the
head's namespace by throughput.py. Prints one JSON object.

    users.py URL COUNT TOKENS PROMPT_FILE
"""

import json
import pathlib
import sys
import threading
import time
import urllib.request

SECONDS = 900


def ask(url: str, prompt: str, tokens: int, answers: list[dict]) -> None:
    question = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": False}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(question).encode(),
                                     {"Content-Type": "application/json"})
    begin = time.monotonic()
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:
        usage = json.load(reply)["usage"]
    answers.append({"tokens": usage["completion_tokens"], "seconds": time.monotonic() - begin})


def main() -> None:
    url, count, tokens, prompt_file = sys.argv[1:]
    prompt = pathlib.Path(prompt_file).read_text(encoding="utf-8")
    answers: list[dict] = []
    # Unlike beginnings: nobody's prompt may be served from another's.
    users = [threading.Thread(target=ask, args=(url, f"{number} {prompt}", int(tokens), answers))
             for number in range(int(count))]
    begin = time.monotonic()
    for user in users:
        user.start()
    for user in users:
        user.join()
    print(json.dumps({"users": int(count), "answered": len(answers), "seconds": time.monotonic() - begin,
                      "tokens": sum(answer["tokens"] for answer in answers)}))


if __name__ == "__main__":
    main()
