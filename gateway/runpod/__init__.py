"""The RunPod door: it turns a job into a request to the same application. It does not import the RunPod SDK."""
