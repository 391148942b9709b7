"""Export and import: from one service into another, and from the files of other programs.

All calls go through the client, so both work on a folder, a service and an endpoint alike.
"""
