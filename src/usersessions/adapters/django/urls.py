"""The server API, users' own sessions and the streams, to include: `path("rt/", include(...))`."""

from django.urls import path

from ...http.endpoints import PATHS, WEBSOCKET_PATH
from .views import serve

app_name = "usersessions"
urlpatterns = [
    path(
        each[1:].replace("{", "<").replace("}", ">"),
        serve,
        {"path": each},
        name=each.rpartition("/")[2].strip("{}"),
    )
    for each in (*PATHS, WEBSOCKET_PATH)
]
