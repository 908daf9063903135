import httpx
def test_it(http: httpx.Client) -> None:
    for p in ["/", "/health", "/v1/models", "/v1/models/org/text:1","/v1/models/none", "/nope", "/v1/chat/completions"]:
        r = http.get(p); print(p, r.status_code, r.headers, r.text)
    for b in [{"model":"chat","messages":[{"role":"user","content":"hi"}], "n":2, "logprobs":True, "top_logprobs":1}]:
        r = http.post("/v1/chat/completions", json=b); print(r.status_code, r.text)
        r = http.post("/v1/chat/completions", json=b|{"stream":True,"stream_options":{"include_usage":True}}); print(r.status_code, r.headers, r.text)
        r = http.post("/v1/completions", json={"model":"chat","prompt":["a","b"],"stream":True,"logprobs":2}); print(r.status_code, r.text)
        r = http.post("/v1/completions", json={"model":"chat","prompt":["a","b"],"n":2,"logprobs":2}); print(r.status_code, r.text)
        r = http.post("/v1/embeddings", json={"model":"chat","input":["a","b"]}); print(r.status_code, r.text)
        r = http.post("/v1/embeddings", json={"model":"chat","input":[1,2],"encoding_format":"base64"}); print(r.status_code, r.text)
    r=http.get("/openapi.json"); print(r.status_code, len(r.text), r.text[:2000])
    r=http.get("/docs"); print(r.status_code, len(r.text), r.text[:3000])
