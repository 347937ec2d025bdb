"""`python ask.py URL`: prints an answer's status and text, 0 where there is none; input: its header."""

import re
import sys
import urllib.error
import urllib.request

request = urllib.request.Request(sys.argv[1])
for name, value in re.findall(r'header = "([^:]+): (.+)"', sys.stdin.read()):
    request.add_header(name, value)
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        print(answer.status, answer.read().decode(), sep="\n")
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
