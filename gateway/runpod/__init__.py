"""The RunPod door. It turns a job into a request to the same application, and it does not import the RunPod SDK."""
